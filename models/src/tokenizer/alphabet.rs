//! The byte-level alphabet of GPT-2's `encoder.py`: a printable character for each byte, in which vocabularies are spelled.
//!
//! Printable bytes of Latin-1 stand for themselves, the other 68 for U+0100 and on, in order.

/// One more than the last character of the alphabet.
const CHARS_END: usize = 0x144;

/// Both directions of the alphabet.
#[derive(Debug)]
pub(super) struct Alphabet {
    char_of: [char; 256],
    byte_of: [Option<u8>; CHARS_END],
}

impl Alphabet {
    pub(super) fn new() -> Self {
        let mut char_of = ['\0'; 256];
        let mut byte_of = [None; CHARS_END];
        let mut others = '\u{100}'..='\u{143}';
        for byte in 0..=u8::MAX {
            let stands_for_itself = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let other = if stands_for_itself {
                None
            } else {
                others.next()
            };
            let char = other.unwrap_or(char::from(byte));
            char_of[usize::from(byte)] = char;
            byte_of[char as usize] = Some(byte);
        }
        Self { char_of, byte_of }
    }

    /// The character that stands for a byte.
    pub(super) fn char_of(&self, byte: u8) -> char {
        self.char_of[usize::from(byte)]
    }

    /// Appends the bytes that `text` spells; a character outside of the alphabet stands for itself.
    pub(super) fn decode(&self, text: &str, out: &mut Vec<u8>) {
        for char in text.chars() {
            match self.byte_of.get(char as usize).copied().flatten() {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}
