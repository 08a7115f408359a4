//! An array of JSON that is joined a piece at a time, so that a large one is never copied as a whole.
//!
//! Owns the brackets and commas, and the count of what is left. Not how fast it is told, and not what the objects are.

use std::iter::Peekable;
use std::vec;

use bytes::Bytes;

/// What is left of an array.
#[derive(Debug)]
pub struct List {
    /// Objects, one or more in each, separated by commas.
    objects: Peekable<vec::IntoIter<Bytes>>,
    begun: bool,
    left: usize,
}

impl List {
    pub fn of(objects: Vec<Bytes>) -> Self {
        let commas = objects.len().saturating_sub(1);
        let left = objects.iter().map(Bytes::len).sum::<usize>() + commas + "[]".len();
        Self { objects: objects.into_iter().peekable(), begun: false, left }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next piece, of `most` bytes or as few more as one part of the objects has. `None` after the last.
    pub fn join(&mut self, most: usize) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut piece = Vec::with_capacity(self.left.min(most));
        while let Some(objects) = self.objects.next_if(|next| piece.is_empty() || piece.len() + next.len() < most) {
            piece.push(if self.begun { b',' } else { b'[' });
            self.begun = true;
            piece.extend_from_slice(&objects);
        }
        if self.objects.peek().is_none() {
            piece.extend_from_slice(if self.begun { b"]" } else { b"[]" });
        }
        self.left -= piece.len();
        Some(piece.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_make_the_array_however_small_they_are() {
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        for (parts, whole) in
            [(vec![], "[]"), (vec![part("1")], "[1]"), (vec![part("1,2"), part("34"), part("5")], "[1,2,34,5]")]
        {
            for most in [0, 1, 2, 3, 4, 5, 6, 9, 10, usize::MAX] {
                let mut list = List::of(parts.clone());
                assert_eq!(list.left(), whole.len());
                let mut joined = Vec::new();
                while let Some(piece) = list.join(most) {
                    let longest = parts.iter().map(Bytes::len).max().unwrap_or_default() + "[]".len();
                    assert!((1..=most.saturating_add(1).max(longest)).contains(&piece.len()), "{piece:?} of {most}");
                    joined.extend_from_slice(&piece);
                    assert_eq!(list.left(), whole.len() - joined.len());
                }
                assert_eq!(String::from_utf8(joined).unwrap(), whole);
            }
        }
    }
}
