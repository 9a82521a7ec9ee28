//! A metadata value: GGUF's thirteen types folded into the few that a reader tells apart.

/// The value of a metadata key. Integers are widened, arrays keep 32-bit elements where the file had no wider ones.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A floating point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    String(String),
    /// Strings: the vocabulary, the merges.
    Strings(Vec<String>),
    /// Unsigned integers of up to 32 bits.
    U32s(Vec<u32>),
    /// Signed integers of up to 32 bits: token types.
    I32s(Vec<i32>),
    /// Floating point numbers of 32 bits: token scores.
    F32s(Vec<f32>),
    /// Unsigned integers of 64 bits.
    U64s(Vec<u64>),
    /// Signed integers of 64 bits.
    I64s(Vec<i64>),
    /// Floating point numbers of 64 bits.
    F64s(Vec<f64>),
    /// Truth values.
    Bools(Vec<bool>),
}

impl Value {
    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The integer, if it is one and fits.
    #[must_use]
    pub fn as_u32(&self) -> Option<u32> {
        match *self {
            Self::Unsigned(n) => u32::try_from(n).ok(),
            Self::Signed(n) => u32::try_from(n).ok(),
            _ => None,
        }
    }

    /// The floating point number, narrowed.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "narrowing is the point; the file holds 32 bits as a rule"
    )]
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::Float(x) => Some(x as f32),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The strings, if it is an array of them.
    #[must_use]
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::Strings(v) => Some(v),
            _ => None,
        }
    }

    /// The array, if its elements are unsigned and at most 32 bits wide.
    #[must_use]
    pub fn as_u32s(&self) -> Option<&[u32]> {
        match self {
            Self::U32s(v) => Some(v),
            _ => None,
        }
    }

    /// The array, if its elements are signed and at most 32 bits wide.
    #[must_use]
    pub fn as_i32s(&self) -> Option<&[i32]> {
        match self {
            Self::I32s(v) => Some(v),
            _ => None,
        }
    }

    /// The array, if its elements are floating point numbers of 32 bits.
    #[must_use]
    pub fn as_f32s(&self) -> Option<&[f32]> {
        match self {
            Self::F32s(v) => Some(v),
            _ => None,
        }
    }

    /// What the value is, for an error message.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Strings(_) => "an array of strings",
            Self::U32s(_) => "an array of unsigned integers",
            Self::I32s(_) => "an array of signed integers",
            Self::F32s(_) => "an array of numbers",
            Self::U64s(_) => "an array of wide unsigned integers",
            Self::I64s(_) => "an array of wide signed integers",
            Self::F64s(_) => "an array of wide numbers",
            Self::Bools(_) => "an array of booleans",
        }
    }
}
