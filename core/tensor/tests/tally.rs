//! What operations count. One test alone in its process, since it is the process that counts.

use dtta_tensor::{ConvOptions, Device, Result, Tally, Tensor};

#[test]
fn products_are_counted_as_the_textbook_does() {
    let device = Device::cpu();
    let full = |shape: &[usize]| Tensor::full(shape, 0.5, &device).unwrap();
    let count = |operation: &dyn Fn() -> Result<Tensor>| {
        let before = Tally::now();
        let result = operation().unwrap();
        let found = Tally::now() - before;
        assert!(found.bytes >= 4 * result.shape().elements() as u64);
        found.multiply_adds
    };
    let (x, y, one) = (full(&[3, 4, 5]), full(&[3, 5, 6]), full(&[1, 5, 6]));
    assert_eq!(count(&|| x.matmul(&y)), 3 * 4 * 5 * 6);
    assert_eq!(count(&|| x.matmul(&one)), 3 * 4 * 5 * 6);
    let (weight, bias) = (full(&[7, 5]), full(&[7]));
    assert_eq!(count(&|| x.linear(&weight, Some(&bias))), 12 * 5 * 7);
    assert_eq!(count(&|| x.linear(&weight, None)), 12 * 5 * 7);
    // 9 × 8 with padding 1, 3 × 3 windows two apart: 5 × 4 places; 2 groups of 2 channels in, 3 out.
    let image = full(&[2, 4, 9, 8]);
    let options = |groups| ConvOptions {
        stride: [2, 2],
        padding: [1, 1],
        groups,
        ..ConvOptions::default()
    };
    let kernel = full(&[6, 2, 3, 3]);
    assert_eq!(
        count(&|| image.conv2d(&kernel, None, options(2))),
        2 * 6 * 20 * 18
    );
    let kernel = full(&[6, 4, 3, 3]);
    assert_eq!(
        count(&|| image.conv2d(&kernel, None, options(1))),
        2 * 6 * 20 * 36
    );
    // Two products of tokens with tokens, over all heads.
    let tokens = full(&[2, 10, 24]);
    assert_eq!(count(&|| tokens.self_attention(2)), 2 * 2 * 10 * 10 * 8);
    assert_eq!(count(&|| x.add(&x)), 0);
}
