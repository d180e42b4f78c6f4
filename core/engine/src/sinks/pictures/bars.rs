//! The picture of a class: the image, a strip in the colour of the true class, and bars for the most probable classes, before and after.

use std::fmt::Write as _;

use dtta_data::Image;
use dtta_tensor::{Kind, Named};

use super::panels::{Colour, Panel, class_colour};
use super::{WHITE, input};
use crate::error::{Error, Result};

/// Bars of one prediction at most.
const BARS: usize = 5;
/// Images of fewer rows are magnified to at least so many.
const HEIGHT: usize = 112;
/// What is left of a bar up to a probability of 1.
const REST: Colour = [224; 3];
/// Marks the true class.
const TRUE: Colour = [0; 3];

/// The classes of one prediction with their probabilities, most probable first.
type Ranking = Vec<(i64, f32)>;

/// Predictions of a batch, before and after, and which row of them is pictured.
pub(super) struct Predicted<'a> {
    pub named: [&'a Named; 2],
    /// The name of the predicted class.
    pub name: &'a str,
    pub row: usize,
}

/// The panels and their height: the image, the strip if the class is known, the bars before, the bars after.
///
/// # Errors
/// [`Error::Outputs`] for a head whose `top-classes`, `top-confidences` or `confidence` do not fit its classes.
pub(super) fn bars(
    image: &Image,
    target: Option<i64>,
    predicted: &Predicted<'_>,
) -> Result<(Vec<Panel>, usize)> {
    let [_, rows, _] = image.shape();
    let factor = HEIGHT.div_ceil(rows.max(1)).max(1);
    let height = rows * factor;
    let mut panels = vec![magnified(&input(image), rows, factor)];
    if let Some(class) = target {
        let width = height / 8;
        let strip = std::iter::repeat_n(class_colour(class), width * height);
        panels.push(Panel::new(width, strip));
    }
    for named in predicted.named {
        panels.push(chart(&ranking(named, predicted)?, target, height));
    }
    Ok((panels, height))
}

/// What a head says of one image: its `top-classes` with `top-confidences`, or else the class with its `confidence`, or with 1 if it says
/// none.
fn ranking(named: &Named, predicted: &Predicted<'_>) -> Result<Ranking> {
    let (name, row) = (predicted.name, predicted.row);
    let unfit = |expected: &str| Error::Outputs {
        role: "head",
        found: named
            .iter()
            .map(|(name, tensor)| format!("`{name}` {} {}", tensor.kind(), tensor.shape()))
            .collect::<Vec<_>>()
            .join(", "),
        expected: format!("it predicts {expected}"),
    };
    let class = named
        .get(name)
        .ok_or_else(|| unfit(&format!("`{name}`, a class for each image")))?;
    let images = class.shape()[0];
    if let (Some(classes), Some(shares)) = (named.get("top-classes"), named.get("top-confidences"))
    {
        let fits = classes.kind() == Kind::Int
            && shares.kind() == Kind::Float
            && classes.shape() == shares.shape()
            && classes.shape().rank() == 2
            && classes.shape()[0] == images;
        if !fits {
            return Err(unfit(&format!(
                "`top-classes` as int [{images}, k] and `top-confidences` as float [{images}, k]"
            )));
        }
        let classes = classes.narrow(0, row, 1)?.to_ints()?;
        let shares = shares.narrow(0, row, 1)?.to_floats()?;
        return Ok(classes.into_iter().zip(shares).take(BARS).collect());
    }
    let class = class.narrow(0, row, 1)?.to_ints()?;
    let share = match named.get("confidence") {
        None => vec![1.0],
        Some(share) if share.kind() == Kind::Float && *share.shape() == [images] => {
            share.narrow(0, row, 1)?.to_floats()?
        }
        Some(_) => return Err(unfit(&format!("`confidence` as float [{images}]"))),
    };
    Ok(class.into_iter().zip(share).collect())
}

/// One bar below the other, as long as probable. The true class has a black edge.
fn chart(ranking: &Ranking, target: Option<i64>, height: usize) -> Panel {
    let width = height;
    let edge = width / 16;
    let each = height / BARS;
    let gap = each / 5;
    let pixel = |place: usize| -> Colour {
        let (y, x) = (place / width, place % width);
        let Some(&(class, share)) = ranking.get(y / each) else {
            return WHITE;
        };
        let is_true = target == Some(class);
        if y % each < gap {
            WHITE
        } else if x < edge {
            if is_true { TRUE } else { WHITE }
        } else if ((x - edge) as f32) < share.clamp(0.0, 1.0) * (width - edge) as f32 {
            class_colour(class)
        } else {
            REST
        }
    };
    Panel::new(width, (0..width * height).map(pixel))
}

/// Each pixel as a square of pixels.
fn magnified(panel: &Panel, rows: usize, factor: usize) -> Panel {
    let width = panel.width * factor;
    let pixels = (0..rows * factor)
        .flat_map(|y| (0..width).map(move |x| panel.pixels[y / factor * panel.width + x / factor]));
    Panel::new(width, pixels)
}

/// Which class has which colour, as SVG, whose text needs no font of ours.
pub(super) fn legend(names: &[String]) -> String {
    const LINE: usize = 20;
    let height = LINE * names.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"320\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n"
    );
    for (class, name) in names.iter().enumerate() {
        let [red, green, blue] = class_colour(class as i64);
        let (top, base) = (LINE * class + 2, LINE * class + 15);
        let name: String = name.chars().map(escaped).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<rect x=\"2\" y=\"{top}\" width=\"16\" height=\"16\" fill=\"#{red:02x}{green:02x}{blue:02x}\"/><text x=\"26\" y=\"{base}\">{class}: {name}</text>"
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(character: char) -> String {
    match character {
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        other if other.is_control() => " ".into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use dtta_tensor::{Device, Tensor};

    use super::*;

    fn ints(values: &[i64], shape: &[usize]) -> Tensor {
        Tensor::from_ints(values, shape, &Device::cpu()).unwrap()
    }

    fn floats(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_floats(values, shape, &Device::cpu()).unwrap()
    }

    fn of(named: &Named, row: usize) -> Result<Ranking> {
        let predicted = Predicted {
            named: [named, named],
            name: "class",
            row,
        };
        ranking(named, &predicted)
    }

    #[test]
    fn ranks_what_a_head_says() {
        let class = Named::one("class", ints(&[2, 0], &[2]));
        assert_eq!(of(&class, 0).unwrap(), [(2, 1.0)]);
        let confident = class
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .chain([("confidence".to_owned(), floats(&[0.5, 0.25], &[2]))]);
        let confident: Named = confident.collect();
        assert_eq!(of(&confident, 1).unwrap(), [(0, 0.25)]);
        let top = |shares: Tensor| -> Named {
            [
                ("class".to_owned(), ints(&[2, 0], &[2])),
                ("top-classes".to_owned(), ints(&[2, 1, 0, 3], &[2, 2])),
                ("top-confidences".to_owned(), shares),
            ]
            .into_iter()
            .collect()
        };
        let named = top(floats(&[0.75, 0.25, 0.5, 0.125], &[2, 2]));
        assert_eq!(of(&named, 1).unwrap(), [(0, 0.5), (3, 0.125)]);
        for wrong in [
            floats(&[0.5, 0.5], &[2, 1]),
            ints(&[1, 0, 1, 0], &[2, 2]),
            floats(&[0.5; 4], &[4]),
        ] {
            let error = of(&top(wrong), 0).unwrap_err().to_string();
            assert!(error.contains("top-confidences"), "{error}");
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_class_is_probable_and_marks_the_true_one() {
        let panel = chart(&vec![(1, 0.5), (2, f32::NAN)], Some(1), 160);
        let at = |y: usize, x: usize| panel.pixels[y * 160 + x];
        // Edge of 10 pixels, then 150 of which half are the bar; the first 6 rows of 32 are the gap.
        assert_eq!([at(16, 0), at(48, 0)], [TRUE, WHITE]);
        assert_eq!([at(16, 10), at(16, 84)], [class_colour(1); 2]);
        assert_eq!([at(16, 85), at(16, 159), at(48, 10)], [REST; 3]);
        assert_eq!([at(5, 20), at(100, 20)], [WHITE; 2]);
    }

    #[test]
    fn a_legend_names_each_class_by_its_colour() {
        let svg = legend(&["T-shirt".into(), "a<b>&c".into()]);
        assert!(svg.contains("#808080"), "{svg}");
        assert!(svg.contains(">1: a&lt;b&gt;&amp;c</text>"), "{svg}");
    }
}
