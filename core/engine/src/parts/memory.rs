//! A memory of the stream that stays balanced over classes and forgets what is old or unsure: category-balanced sampling with timeliness and
//! uncertainty (RoTTA, Yuan et al. 2023, section 3.3).

use dtta_learn::{Error, State};
use dtta_tensor::{Device, Tensor};

use crate::error::Result;

/// Images of a stream, by the class that was predicted for them.
#[derive(Clone)]
pub(crate) struct Memory {
    capacity: usize,
    classes: Vec<Vec<Kept>>,
}

/// An image that is kept.
#[derive(Clone)]
struct Kept {
    /// `[1, C, H, W]`.
    image: Tensor,
    /// The entropy of its prediction as a share of ln K.
    uncertainty: f32,
    /// Images that came since.
    age: u32,
}

impl Memory {
    /// An empty one for so many images.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            classes: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.classes.iter().map(Vec::len).sum()
    }

    /// Takes up an image, or leaves it, and all others grow older.
    pub fn add(&mut self, image: Tensor, class: usize, classes: usize, uncertainty: f32) {
        self.classes.resize(classes, Vec::new());
        let newest = Kept {
            image,
            uncertainty,
            age: 0,
        };
        if self.makes_room(class, self.score(&newest)) {
            self.classes[class].push(newest);
        }
        for kept in self.classes.iter_mut().flatten() {
            kept.age += 1;
        }
    }

    /// How much an image deserves to go.
    fn score(&self, kept: &Kept) -> f32 {
        let timeliness = 1.0 / (1.0 + (-(kept.age as f32) / self.capacity as f32).exp());
        timeliness + kept.uncertainty
    }

    /// Whether there is room for an image of a class, after the worst one that deserves to go more is gone.
    fn makes_room(&mut self, class: usize, score: f32) -> bool {
        let share = self.capacity as f64 / self.classes.len() as f64;
        let candidates: Vec<usize> = if (self.classes[class].len() as f64) < share {
            if self.len() < self.capacity {
                return true;
            }
            let most = self.classes.iter().map(Vec::len).max().unwrap_or(0);
            let classes = 0..self.classes.len();
            classes.filter(|&n| self.classes[n].len() == most).collect()
        } else {
            vec![class]
        };
        let mut worst: Option<(usize, usize, f32)> = None;
        for class in candidates {
            for (index, kept) in self.classes[class].iter().enumerate() {
                let score = self.score(kept);
                if worst.is_none_or(|(.., most)| score >= most) {
                    worst = Some((class, index, score));
                }
            }
        }
        match worst {
            None => true,
            Some((class, index, most)) if most > score => {
                self.classes[class].remove(index);
                true
            }
            Some(_) => false,
        }
    }

    /// Every image, `[N, C, H, W]`, and its age as a share of the capacity; nothing while it is empty.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn all(&self) -> Result<Option<(Tensor, Vec<f32>)>> {
        let kept: Vec<&Kept> = self.classes.iter().flatten().collect();
        if kept.is_empty() {
            return Ok(None);
        }
        let images: Vec<&Tensor> = kept.iter().map(|kept| &kept.image).collect();
        let ages = kept
            .iter()
            .map(|kept| kept.age as f32 / self.capacity as f32);
        Ok(Some((Tensor::cat(&images, 0)?, ages.collect())))
    }

    /// Images, with class, age and uncertainty of each.
    pub fn state(&self) -> State {
        let mut state = State::new();
        state
            .counts
            .insert("classes".into(), self.classes.len() as i64);
        let all = self.classes.iter().enumerate();
        let all = all.flat_map(|(class, kept)| kept.iter().map(move |kept| (class, kept)));
        for (index, (class, kept)) in all.enumerate() {
            state
                .tensors
                .insert(format!("image/{index}"), kept.image.clone());
            let numbers = [
                ("class", class as i64),
                ("age", i64::from(kept.age)),
                ("uncertainty", i64::from(kept.uncertainty.to_bits())),
            ];
            for (name, number) in numbers {
                state.counts.insert(format!("{name}/{index}"), number);
            }
        }
        state
    }

    /// Takes up a state; images come to `device`.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Unknown`]; whatever the device refuses.
    pub fn restore(&mut self, mut state: State, device: &Device) -> Result<()> {
        fn small<T: TryFrom<i64>>(name: &str, count: i64) -> Result<T, Error> {
            T::try_from(count).map_err(|_| Error::Unknown {
                name: format!("{name} = {count}"),
            })
        }
        let classes = small("classes", state.take_count("classes")?)?;
        let mut all = vec![Vec::new(); classes];
        for index in 0.. {
            let Some(image) = state.tensors.remove(&format!("image/{index}")) else {
                break;
            };
            let mut number = |name: &str| state.take_count(&format!("{name}/{index}"));
            let class: usize = small("class", number("class")?)?;
            let age = small("age", number("age")?)?;
            let bits = small("uncertainty", number("uncertainty")?)?;
            let of_class = all.get_mut(class).ok_or_else(|| Error::Unknown {
                name: format!("class/{index} = {class}"),
            })?;
            of_class.push(Kept {
                image: image.to_device(device)?,
                uncertainty: f32::from_bits(bits),
                age,
            });
        }
        state.finish()?;
        self.classes = all;
        Ok(())
    }
}
