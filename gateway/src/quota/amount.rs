//! What is spent, in whole numbers of a smallest unit: sums stay exact and no rounding ever gives anything away.

use serde::{Deserialize, Serialize};

use crate::upstream::Usage;

/// What an allocation is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Currency {
    /// Tokens of prompt and completion.
    Tokens,
    /// Time of accelerators, in microseconds.
    GpuSeconds,
    /// Money, in millionths of its unit.
    Money,
    /// Energy, in thousandths of a joule.
    Joules,
}

impl Currency {
    /// Every currency.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::GpuSeconds, Self::Money, Self::Joules];

    /// Smallest units in one whole unit, the one that operators write.
    #[must_use]
    pub const fn units(self) -> u64 {
        match self {
            Self::Tokens => 1,
            Self::GpuSeconds | Self::Money => 1_000_000,
            Self::Joules => 1_000,
        }
    }

    /// Its name in config and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::GpuSeconds => "gpu_seconds",
            Self::Money => "money",
            Self::Joules => "joules",
        }
    }
}

/// An amount of each currency, in smallest units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Tokens.
    pub tokens: u64,
    /// Microseconds of accelerators.
    pub gpu_us: u64,
    /// Millionths of the unit of money.
    pub money_micros: u64,
    /// Thousandths of a joule.
    pub millijoules: u64,
}

impl Amounts {
    /// The amount of one currency.
    #[must_use]
    pub const fn of(&self, currency: Currency) -> u64 {
        match currency {
            Currency::Tokens => self.tokens,
            Currency::GpuSeconds => self.gpu_us,
            Currency::Money => self.money_micros,
            Currency::Joules => self.millijoules,
        }
    }
}

/// What a million tokens cost, in millionths of the unit of money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Of the prompt, computed.
    pub input: u64,
    /// Of the prompt, found in a prefix cache.
    pub cached: u64,
    /// Of the completion.
    pub output: u64,
}

impl Price {
    /// What a request costs, rounded up.
    #[must_use]
    pub fn of(&self, tokens: Tokens) -> u64 {
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let cached = tokens.cached.min(tokens.prompt);
        let micros = part(tokens.prompt - cached, self.input)
            .saturating_add(part(cached, self.cached))
            .saturating_add(part(tokens.completion, self.output));
        u64::try_from(micros.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// The most that so many tokens can cost: nothing may be found in a cache.
    #[must_use]
    pub fn bound(&self, tokens: Tokens) -> u64 {
        let input = self.input.max(self.cached);
        Self { input, ..*self }.of(Tokens {
            cached: 0,
            ..tokens
        })
    }
}

/// Tokens of a request, over all its prompts and choices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of the prompts.
    pub prompt: u64,
    /// Of these, found in a prefix cache.
    pub cached: u64,
    /// Of the completions.
    pub completion: u64,
}

impl Tokens {
    /// Prompt and completion.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            prompt: usage.prompt_tokens.into(),
            cached: usage.cached_tokens.into(),
            completion: usage.completion_tokens.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_rounded_up_and_its_bound_is_one() {
        let price = Price {
            input: 250_000,
            cached: 25_000,
            output: 1_000_000,
        };
        let tokens = Tokens {
            prompt: 10,
            cached: 4,
            completion: 3,
        };
        // 6 x 0.25 + 4 x 0.025 + 3 x 1 = 4.6 millionths.
        assert_eq!(price.of(tokens), 5);
        assert_eq!(price.bound(tokens), 6);
        let dear_cache = Price {
            cached: 900_000,
            ..price
        };
        assert!(dear_cache.of(tokens) <= dear_cache.bound(tokens));
        let all = Tokens {
            prompt: u64::MAX,
            cached: 0,
            completion: u64::MAX,
        };
        let dearest = Price {
            input: u64::MAX,
            cached: 0,
            output: u64::MAX,
        };
        assert_eq!(dearest.of(all), u64::MAX);
    }
}
