//! Feedback whose draws are split over workers. The bits of a sum depend on the order in which it is taken, so the order is fixed: an
//! image's draws are cut into blocks of a micro-batch each, the blocks are the leaves of a binary tree, and what a worker answers with are
//! sums at nodes of that tree. However the draws are split, the same sums are taken of the same numbers.
//!
//! What travels is a copy of ∂L/∂c for each node: at most two for each level of the tree, and one where a worker has all draws.

use std::collections::BTreeMap;
use std::ops::Range;

use dtta_base::Digest;
use dtta_models::{Denoiser, Weights};
use dtta_tensor::{Device, Named, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::feedback::{Evaluation, Feedback, Request};

/// The place of a node: its level above the leaves, and its number in that level. Node n of level l stands for the blocks n·2^l to
/// (n + 1)·2^l, or to the last.
type Place = (u32, usize);

/// Losses and gradients of some of the draws, summed as far as that is the same whoever has the others.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackPart {
    told: Told,
    /// Losses of the images, then the gradient with respect to each slot.
    sums: BTreeMap<Place, Vec<f32>>,
}

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    /// SHA-256 of what was asked: settings, images, condition.
    question: String,
    /// Draws of each image in all.
    draws: usize,
    /// Draws of a block.
    block: usize,
    images: usize,
    /// Slots with their extents, the batch first.
    slots: Vec<(String, Vec<usize>)>,
    /// Which draws it has.
    from: usize,
    to: usize,
    places: Vec<Place>,
}

impl Told {
    fn blocks(&self) -> usize {
        self.draws.div_ceil(self.block.max(1))
    }

    /// Numbers at each node; nothing for more than there can be.
    fn numbers(&self) -> Option<usize> {
        let slots = self.slots.iter().map(|(_, shape)| shape);
        let mut sum = self.images;
        for shape in slots {
            let product = shape.iter().try_fold(1usize, |n, &m| n.checked_mul(m))?;
            sum = sum.checked_add(product)?;
        }
        Some(sum)
    }
}

impl Feedback {
    /// Draws that are computed together, whoever computes them.
    fn block(&self) -> usize {
        self.micro_batch.clamp(1, self.draws.count.max(1))
    }

    /// The draws of each image in as many parts as there are workers, as equal as they can be; fewer where there are fewer micro-batches.
    pub fn split(&self, workers: usize) -> Vec<Range<usize>> {
        let (draws, block) = (self.draws.count, self.block());
        let blocks = draws.div_ceil(block);
        let parts = workers.clamp(1, blocks.max(1));
        let end = |part: usize| draws.min(part * blocks / parts * block);
        (0..parts).map(|part| end(part)..end(part + 1)).collect()
    }

    /// Losses and gradients of some of the draws of each image, as [`evaluate`](Self::evaluate) of all of them. Parts that have all draws
    /// together [sum](FeedbackPart::sum) to the same bits however the draws are split, on the same kind of device.
    ///
    /// # Errors
    /// [`Error::Draws`] for draws that begin or end within a micro-batch; as `evaluate`.
    pub fn part(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        request: &Request<'_>,
        draws: Range<usize>,
    ) -> Result<FeedbackPart> {
        let (count, block) = (self.draws.count, self.block());
        let is_cut = |at: usize| at.is_multiple_of(block) || at == count;
        if draws.is_empty() || draws.end > count || !is_cut(draws.start) || !is_cut(draws.end) {
            return Err(Error::Draws {
                found: draws,
                draws: count,
                block,
            });
        }
        request.expect(denoiser)?;
        self.expect_memory(request)?;
        let images = request.ids.len();
        // Of an image by itself, so that its neighbours change no bit.
        let alone = (0..images)
            .map(|image| {
                let row = |tensor: &Tensor| tensor.narrow(0, image, 1);
                Ok((row(request.images)?, request.conditioning.try_map(row)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let leaves = (draws.start / block)..draws.end.div_ceil(block);
        let calls: Vec<(usize, usize)> = (0..images)
            .flat_map(|image| leaves.clone().map(move |leaf| (image, leaf)))
            .collect();
        let added = request.images.device().each(calls, |(image, leaf)| {
            let (shown, told) = &alone[image];
            let one = Request {
                ids: &request.ids[image..=image],
                images: shown,
                conditioning: told,
                step: request.step,
            };
            let rows = leaf * block..count.min((leaf + 1) * block);
            let added = self.added(denoiser, weights, (&[], Vec::new()), &one, rows)?;
            let mut numbers = vec![added.losses.iter().map(|loss| loss / count as f32).sum()];
            for (gradient, slot) in added.slots.iter().zip(told.tensors()) {
                match gradient {
                    Some(gradient) => numbers.extend(gradient.to_floats()?),
                    None => numbers.extend(std::iter::repeat_n(0.0, slot.shape().elements())),
                }
            }
            Ok::<_, Error>((image, leaf, numbers))
        });
        let mut told = Told {
            question: self.asked(request)?,
            draws: count,
            block,
            images,
            slots: request
                .conditioning
                .iter()
                .map(|(slot, value)| (slot.to_owned(), value.shape().to_vec()))
                .collect(),
            from: draws.start,
            to: draws.end,
            places: Vec::new(),
        };
        let mut sums: BTreeMap<Place, Vec<f32>> = BTreeMap::new();
        for found in added {
            let (image, leaf, numbers) = found?;
            let mut numbers = &numbers[..];
            let of_all = told.numbers().unwrap_or_default();
            let sum = sums.entry((0, leaf)).or_insert_with(|| vec![0.0; of_all]);
            let mut rest = &mut sum[..];
            let extents = told
                .slots
                .iter()
                .map(|(_, shape)| shape[1..].iter().product());
            for extent in std::iter::once(1).chain(extents) {
                let of_slot;
                (of_slot, rest) = rest.split_at_mut(images * extent);
                let own;
                (own, numbers) = numbers.split_at(extent);
                of_slot[image * extent..(image + 1) * extent].copy_from_slice(own);
            }
        }
        add_up(&mut sums, told.blocks());
        told.places = sums.keys().copied().collect();
        Ok(FeedbackPart { told, sums })
    }

    /// What parts of one whole were all asked.
    fn asked(&self, request: &Request<'_>) -> Result<String> {
        let mut digest = Digest::new();
        digest.field(format!("{self:?} {} {:?}", request.step, request.ids));
        let images = std::iter::once(("", request.images));
        for (slot, tensor) in images.chain(request.conditioning.iter()) {
            digest.field(format!("{slot} {}", tensor.shape()));
            let floats = tensor.to_floats()?;
            let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
            digest.field(bytes);
        }
        Ok(digest.finish())
    }
}

/// Takes the sums of all nodes whose parts are there.
fn add_up(sums: &mut BTreeMap<Place, Vec<f32>>, blocks: usize) {
    let mut level = 0;
    while blocks.div_ceil(1 << level) > 1 {
        let width = blocks.div_ceil(1 << level);
        for left in (0..width).step_by(2) {
            let right = left + 1;
            let is_ready = right == width || sums.contains_key(&(level, right));
            if !is_ready || !sums.contains_key(&(level, left)) {
                continue;
            }
            let mut sum = sums.remove(&(level, left)).unwrap_or_default();
            if let Some(other) = sums.remove(&(level, right)) {
                sum.iter_mut().zip(other).for_each(|(sum, n)| *sum += n);
            }
            sums.insert((level + 1, left / 2), sum);
        }
        level += 1;
    }
}

impl FeedbackPart {
    /// The draws of each image that it has.
    pub fn draws(&self) -> Range<usize> {
        self.told.from..self.told.to
    }

    /// The whole of parts, in any order: losses, and gradients on `device`.
    ///
    /// # Errors
    /// [`Error::Parts`] for parts of other questions, and where draws are missing or there twice.
    pub fn sum(parts: &[Self], device: &Device) -> Result<Evaluation> {
        let refuse = |reason: String| Err(Error::Parts { reason });
        let mut parts: Vec<&Self> = parts.iter().collect();
        parts.sort_by_key(|part| part.told.from);
        let Some(first) = parts.first() else {
            return refuse("there are none".into());
        };
        let told = &first.told;
        let (mut next, mut sums) = (0, BTreeMap::new());
        for part in &parts {
            let Told { from, to, .. } = part.told;
            let alike = Told {
                from: told.from,
                to: told.to,
                places: told.places.clone(),
                ..part.told.clone()
            };
            if alike != *told {
                return refuse(format!(
                    "draws {from}..{to} are of other images, conditions, ids, a step or settings than draws {}..{}",
                    told.from, told.to
                ));
            }
            if from != next {
                return refuse(match from < next {
                    true => format!("draws {from}..{} are there twice", next.min(to)),
                    false => format!("draws {next}..{from} are missing"),
                });
            }
            next = to;
            sums.extend(part.sums.iter().map(|(place, sum)| (*place, sum.clone())));
        }
        if next != told.draws {
            return refuse(format!("draws {next}..{} are missing", told.draws));
        }
        add_up(&mut sums, told.blocks());
        let Some(sum) = sums.into_values().next() else {
            return refuse("there are no sums in them".into());
        };
        let (losses, mut rest) = sum.split_at(told.images);
        let mut gradients = Named::new();
        for (slot, shape) in &told.slots {
            let own;
            (own, rest) = rest.split_at(shape.iter().product());
            gradients.push(slot, Tensor::from_floats(own, shape, device)?);
        }
        Ok(Evaluation {
            losses: losses.to_vec(),
            gradients,
            denoiser_gradients: Vec::new(),
        })
    }

    /// It as bytes, to send: a line of JSON, and 32-bit floats.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Texts and whole numbers, which JSON has.
        let mut bytes = serde_json::to_vec(&self.told).unwrap_or_default();
        bytes.push(b'\n');
        for sum in self.sums.values() {
            bytes.extend(sum.iter().flat_map(|number| number.to_le_bytes()));
        }
        bytes
    }

    /// It from [bytes](Self::to_bytes).
    ///
    /// # Errors
    /// [`Error::Parts`] for bytes that are no part's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refuse = |reason: &str| Error::Parts {
            reason: reason.into(),
        };
        let line = bytes.iter().position(|&byte| byte == b'\n');
        let line = line.ok_or_else(|| refuse("bytes are no part's"))?;
        let told: Told = serde_json::from_slice(&bytes[..line])
            .map_err(|error| refuse(&format!("bytes are no part's: {error}")))?;
        let numbers = told.numbers().filter(|&numbers| numbers > 0);
        let size = numbers.and_then(|numbers| numbers.checked_mul(size_of::<f32>()));
        let floats = &bytes[line + 1..];
        let whole = size.and_then(|size| size.checked_mul(told.places.len()));
        let (Some(size), true) = (size, whole == Some(floats.len())) else {
            return Err(refuse("bytes are cut short, or too many"));
        };
        if told.places != nodes(&told) {
            return Err(refuse("bytes are of other draws than they say"));
        }
        let sum = |bytes: &[u8]| {
            let (numbers, _) = bytes.as_chunks::<4>();
            numbers.iter().map(|&n| f32::from_le_bytes(n)).collect()
        };
        let sums = told.places.iter().copied();
        let sums = sums.zip(floats.chunks(size).map(sum)).collect();
        Ok(Self { told, sums })
    }
}

/// The nodes at which a part has sums, by its draws.
fn nodes(told: &Told) -> Vec<Place> {
    let mut sums: BTreeMap<Place, Vec<f32>> = BTreeMap::new();
    if told.block == 0 || told.draws > crate::MAX_DRAWS || told.to > told.draws {
        return Vec::new();
    }
    let leaves = told.from / told.block..told.to.div_ceil(told.block);
    sums.extend(leaves.map(|leaf| ((0, leaf), Vec::new())));
    add_up(&mut sums, told.blocks());
    sums.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_sum_of_its_halves_and_the_last_may_have_one() {
        // (((0 1) (2 3)) (4)): what is added first tells in floats.
        let leaves = [1e8f32, 1.0, -1e8, 1.0, 1.0];
        let leaf = |(n, &x): (usize, &f32)| ((0, n), vec![x]);
        let mut sums: BTreeMap<Place, Vec<f32>> = leaves.iter().enumerate().map(leaf).collect();
        add_up(&mut sums, leaves.len());
        let expected = ((leaves[0] + leaves[1]) + (leaves[2] + leaves[3])) + leaves[4];
        assert_eq!(sums, [((3, 0), vec![expected])].into());
    }
}
