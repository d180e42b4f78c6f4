//! The classes of ImageNet-1k and of the sets whose classes are some of them.

use std::sync::LazyLock;

/// WordNet ids (such as `n01440764`) of ImageNet-1k's classes, in label order: what its folders are called.
pub fn imagenet_synsets() -> &'static [&'static str] {
    static SYNSETS: LazyLock<Vec<&str>> =
        LazyLock::new(|| include_str!("imagenet/synsets.txt").lines().collect());
    &SYNSETS
}

/// The labels in ImageNet-1k of the 200 classes of ImageNet-A (Hendrycks et al. 2021), in the order of their WordNet ids.
pub fn imagenet_a() -> Vec<usize> {
    numbers(include_str!("imagenet/a.txt"))
}

/// The labels in ImageNet-1k of the 200 classes of ImageNet-R (Hendrycks et al. 2021), in the order of their WordNet ids.
pub fn imagenet_r() -> Vec<usize> {
    numbers(include_str!("imagenet/r.txt"))
}

fn numbers(lines: &str) -> Vec<usize> {
    let numbers = lines.lines().map(str::parse);
    numbers.collect::<Result<_, _>>().expect("one label a line")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_in_order_are_labels_in_order() {
        let synsets = imagenet_synsets();
        assert_eq!(synsets.len(), 1000);
        assert!(synsets.is_sorted());
        // The tench is the first, the toilet tissue the last.
        assert_eq!((synsets[0], synsets[999]), ("n01440764", "n15075141"));
        for subset in [imagenet_a(), imagenet_r()] {
            assert_eq!(subset.len(), 200);
            assert!(subset.is_sorted() && subset[199] < 1000);
        }
        // The first classes of the sets: the stingray (6) and the goldfish (1).
        assert_eq!((imagenet_a()[0], imagenet_r()[0]), (6, 1));
    }
}
