//! What an additive metric saves, taken apart into its whole numbers and the JSON around them, so that a host sums thousands of
//! accumulators without the plugin. The text is cut, not parsed to values: JSON libraries keep 64 bits, and sums may have more.

use serde::de::IgnoredAny;

/// The JSON around the numbers of a saved accumulator. Accumulators of one metric add up, number by number, where their layouts
/// are equal, as those are that have seen samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout(Vec<String>);

impl Layout {
    /// A saved accumulator as its layout and its numbers; nothing if it is not JSON, or has a number that is not whole.
    pub fn split(saved: &[u8]) -> Option<(Self, Vec<i128>)> {
        let text = str::from_utf8(saved).ok()?;
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let (mut around, mut numbers) = (Vec::new(), Vec::new());
        let mut rest = text;
        let (mut cut, mut in_text, mut is_escaped) = (0, false, false);
        while let Some((place, byte)) = rest
            .bytes()
            .enumerate()
            .skip(cut)
            .find(|(_, byte)| in_text || matches!(byte, b'"' | b'-' | b'0'..=b'9'))
        {
            cut = place + 1;
            if in_text {
                in_text = is_escaped || byte != b'"';
                is_escaped = !is_escaped && byte == b'\\';
            } else if byte == b'"' {
                in_text = true;
            } else {
                let is_part = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
                let number = &rest[place..];
                let end = number.bytes().position(|byte| !is_part(byte));
                let (number, behind) = number.split_at(end.unwrap_or(number.len()));
                numbers.push(number.parse().ok()?);
                around.push(rest[..place].to_owned());
                (rest, cut) = (behind, 0);
            }
        }
        around.push(rest.to_owned());
        Some((Self(around), numbers))
    }

    /// What an accumulator with these numbers would have saved; nothing if there are more or fewer than the layout has.
    pub fn join(&self, numbers: &[i128]) -> Option<Vec<u8>> {
        let (first, rest) = self.0.split_first()?;
        if rest.len() != numbers.len() {
            return None;
        }
        let mut text = first.clone();
        for (number, around) in numbers.iter().zip(rest) {
            text.push_str(&number.to_string());
            text.push_str(around);
        }
        Some(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_numbers_out_and_puts_others_in() {
        let saved =
            br#"{"of 3 \"bins\" \\":[[1,-2],[170141183460469231731687303715884105727]],"b1":true}"#;
        let (layout, numbers) = Layout::split(saved).unwrap();
        assert_eq!(numbers, [1, -2, i128::MAX]);
        assert_eq!(layout.join(&numbers).unwrap(), saved);
        let changed = layout.join(&[10, 0, 7]).unwrap();
        assert_eq!(
            String::from_utf8(changed).unwrap(),
            r#"{"of 3 \"bins\" \\":[[10,0],[7]],"b1":true}"#
        );
        assert_eq!(layout.join(&[1]), None);
        assert_eq!(Layout::split(b"7").unwrap().1, [7]);
    }

    #[test]
    fn tells_layouts_apart() {
        let layout = |saved: &str| Layout::split(saved.as_bytes()).unwrap().0;
        assert_eq!(layout("[1,22]"), layout("[333,4]"));
        for other in ["[1]", "[1,2,3]", "[[1,2]]", r#"["1",2]"#] {
            assert_ne!(layout("[1,2]"), layout(other), "{other}");
        }
    }

    #[test]
    fn takes_no_other_numbers_than_whole_ones_and_nothing_but_json() {
        for saved in [
            &b"[1.5]"[..],
            b"[1e3]",
            b"[1.0]",
            b"[1 2]",
            b"1, 2",
            b"[-]",
            b"",
            b"\xff",
            b"[340282366920938463463374607431768211456]",
        ] {
            assert_eq!(Layout::split(saved), None, "{saved:?}");
        }
    }

    proptest! {
        #[test]
        fn gives_back_what_it_took_apart(numbers in proptest::collection::vec(any::<i64>(), 0..20), text in ".*") {
            let saved = serde_json::to_vec(&serde_json::json!({"numbers": numbers, text: null})).unwrap();
            let (layout, found) = Layout::split(&saved).unwrap();
            prop_assert!(found.iter().copied().eq(numbers.iter().map(|&number| i128::from(number))));
            prop_assert_eq!(layout.join(&found).unwrap(), saved);
        }

        #[test]
        fn any_bytes_are_taken_apart_or_not(saved in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Layout::split(&saved);
        }
    }
}
