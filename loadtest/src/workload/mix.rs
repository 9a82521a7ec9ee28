//! A choice between several things with weights. Knows nothing of what is chosen.

use crate::rng::SplitMix64;

/// Things with weights.
#[derive(Debug, Clone)]
pub struct Mix<T> {
    items: Vec<T>,
    /// Sums of the weights up to and with each item.
    sums: Vec<f64>,
}

impl<T> Mix<T> {
    /// Nothing to choose from.
    pub fn none() -> Self {
        Self::of([])
    }

    /// One thing.
    pub fn one(item: T) -> Self {
        Self::of([(item, 1.0)])
    }

    /// Things with their weights, which are positive numbers of any scale.
    pub fn of(weighted: impl IntoIterator<Item = (T, f64)>) -> Self {
        let mut sum = 0.0;
        let (items, sums) = weighted
            .into_iter()
            .map(|(item, weight)| {
                sum += weight;
                (item, sum)
            })
            .unzip();
        Self { items, sums }
    }

    /// Draws one; None where there is nothing.
    pub fn draw(&self, rng: &mut SplitMix64) -> Option<&T> {
        let at = rng.next_unit() * self.sums.last()?;
        let index = self.sums.partition_point(|&sum| sum <= at);
        self.items.get(index).or(self.items.last())
    }

    /// All things, in the order in which they were given.
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// The share of each thing, from 0 to 1.
    pub fn shares(&self) -> Vec<f64> {
        let whole = self.sums.last().copied().unwrap_or(1.0);
        let before = std::iter::once(&0.0).chain(&self.sums);
        let each = self.sums.iter().zip(before);
        each.map(|(sum, before)| (sum - before) / whole).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let mix = Mix::of([("a", 1.0), ("b", 3.0)]);
        let mut rng = SplitMix64::new(5);
        let b = (0..10_000)
            .filter(|_| mix.draw(&mut rng) == Some(&"b"))
            .count();
        assert!((7_300..7_700).contains(&b), "{b}");
        assert_eq!(mix.shares(), [0.25, 0.75]);
        assert_eq!(Mix::<u8>::none().draw(&mut rng), None);
    }
}
