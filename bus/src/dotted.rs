//! Short texts of words and numbers with dots between them, without an allocation of their own:
//! each delivery has a token of this kind.

/// A text that is being written, of at most `N` bytes; what does not fit is left out.
pub(crate) struct Dotted<const N: usize> {
    text: [u8; N],
    len: usize,
}

impl<const N: usize> Dotted<N> {
    pub(crate) fn new() -> Self {
        Self { text: [0; N], len: 0 }
    }

    /// Adds text as it is.
    pub(crate) fn text(mut self, text: &str) -> Self {
        let end = self.len + text.len();
        if let Some(room) = self.text.get_mut(self.len..end) {
            room.copy_from_slice(text.as_bytes());
            self.len = end;
        }
        self
    }

    /// Adds a number.
    pub(crate) fn number(self, number: impl itoa::Integer) -> Self {
        self.text(itoa::Buffer::new().format(number))
    }

    /// Adds a dot.
    pub(crate) fn dot(self) -> Self {
        self.text(".")
    }

    pub(crate) fn as_str(&self) -> &str {
        // Whole texts were added.
        let written = self.text.get(..self.len).unwrap_or_default();
        std::str::from_utf8(written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_stand_one_after_another() {
        let text = Dotted::<16>::new().text("a").dot().number(u32::MAX).dot().number(-7_i64);
        assert_eq!(text.as_str(), "a.4294967295.-7");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert_eq!(Dotted::<4>::new().text("ab").text("cde").text("fg").as_str(), "abfg");
    }
}
