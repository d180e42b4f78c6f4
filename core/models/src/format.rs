//! What a weight file is, if it is none that can be read: the formats that a user may have at hand, by how they begin.

/// What a file with this beginning is, and what to do with it.
pub(crate) fn of(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    if begins(b"version https://git-lfs.github.com/spec/") {
        return Some((
            "a Git LFS pointer, which stands for the file itself",
            "fetch that with `git lfs pull`",
        ));
    }
    // What `torch.save` writes is known by more than this. A safetensors file that is cut short may begin with the same two bytes, the length
    // of its header, but that header follows after eight.
    if matches!(bytes, [0x80, 2..=5, _, _, _, _, _, _, after, ..] if *after != b'{') {
        return Some((
            "a pickle that `torch.save` did not write",
            "load it with the program that wrote it, and save its tensors as safetensors",
        ));
    }
    if begins(b"\x89HDF\r\n\x1a\n") {
        return Some((
            "an HDF5 file, such as Keras writes",
            "save its weights as safetensors under the names that the model declares",
        ));
    }
    if begins(b"GGUF") {
        return Some((
            "a GGUF file",
            "its weights may be quantised; take the safetensors file that it was made from",
        ));
    }
    let start = bytes.len().min(1 << 16);
    let text = String::from_utf8_lossy(&bytes[..start]);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with('{') {
        return Some(("a JSON file", "give the file with the weights"));
    }
    let tag: String = text.chars().take(14).collect::<String>().to_lowercase();
    (tag.starts_with("<!doctype html") || tag.starts_with("<html")).then_some((
        "a web page",
        "the download answered with a page in the place of the file; fetch it again",
    ))
}
