//! What a weight file is, if it is no safetensors file: the formats that a user may have at hand, by how they begin.

/// How PyTorch's checkpoints become safetensors files.
const CONVERT: &str = "in Python: `from safetensors.torch import save_file; save_file(torch.load(\"IN\", weights_only=True), \"OUT.safetensors\")`, \
                       of the state dict alone";

/// What a file is, and what to do with it.
pub(crate) fn of(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    if begins(b"version https://git-lfs.github.com/spec/") {
        return Some((
            "a Git LFS pointer, which stands for the file itself",
            "fetch that with `git lfs pull`",
        ));
    }
    // A zip archive, or a bare pickle of protocol 2 to 5. A safetensors file that is cut short may begin with the same two bytes, the
    // length of its header, but that header follows after eight.
    let pickle = matches!(bytes, [0x80, 2..=5, _, _, _, _, _, _, after, ..] if *after != b'{');
    if begins(b"PK\x03\x04") || pickle {
        return Some(("a checkpoint of PyTorch", CONVERT));
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
        return Some(match text.contains("\"weight_map\"") {
            true => (
                "the index of weights that are split over several files",
                "write them into one: in Python, `load_file` of safetensors.torch for each, then `save_file` of all",
            ),
            false => ("a JSON file", "give the file with the weights"),
        });
    }
    let tag: String = text.chars().take(14).collect::<String>().to_lowercase();
    (tag.starts_with("<!doctype html") || tag.starts_with("<html")).then_some((
        "a web page",
        "the download answered with a page in the place of the file; fetch it again",
    ))
}
