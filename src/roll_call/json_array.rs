//! A JSON array that is joined one chunk at a time, so that a large one is never copied as a whole.
//!
//! Owns the text around the elements and the commas between them. Owns no rate limit: the HTTP body limits the rate at which
//! it requests chunks ([`crate::http::chunked_body`]).

use std::iter::Peekable;

use bytes::Bytes;

/// Elements that are joined on demand, between a prefix that ends with `[` and a suffix that begins with `]`.
pub struct JsonArrayChunks<I: Iterator<Item = Bytes>> {
    prefix: Option<Bytes>,
    /// Each run has one or more elements, separated by commas.
    runs: Peekable<I>,
    suffix: Option<Bytes>,
    wrote_elements: bool,
}

impl<I: Iterator<Item = Bytes>> JsonArrayChunks<I> {
    /// `runs`: each has one or more serialized elements, separated by commas. No run may be empty.
    pub fn new(prefix: impl Into<Bytes>, runs: I, suffix: impl Into<Bytes>) -> Self {
        Self { prefix: Some(prefix.into()), runs: runs.peekable(), suffix: Some(suffix.into()), wrote_elements: false }
    }

    /// The next chunk: about `size` bytes, or one run if that is longer. `None` after the last.
    pub fn next_chunk(&mut self, size: usize) -> Option<Bytes> {
        self.suffix.as_ref()?;
        let mut chunk = Vec::with_capacity(size);
        chunk.extend_from_slice(&self.prefix.take().unwrap_or_default());
        let mut has_run = false;
        while let Some(run) = self.runs.next_if(|run| !has_run || chunk.len() + run.len() < size) {
            if self.wrote_elements {
                chunk.push(b',');
            }
            chunk.extend_from_slice(&run);
            (has_run, self.wrote_elements) = (true, true);
        }
        if self.runs.peek().is_none() {
            chunk.extend_from_slice(&self.suffix.take().unwrap_or_default());
        }
        Some(chunk.into())
    }
}

/// The length of the array `[…]` of these runs, in bytes.
pub fn array_length(runs: impl Iterator<Item = usize>) -> usize {
    let (count, bytes) = runs.fold((0_usize, 0), |(count, bytes), run| (count + 1, bytes + run));
    bytes + count.saturating_sub(1) + "[]".len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunks_make_the_array_at_every_chunk_size() {
        let run = |text: &'static str| Bytes::from_static(text.as_bytes());
        for (runs, whole) in
            [(vec![], "[]"), (vec![run("1")], "[1]"), (vec![run("1,2"), run("34"), run("5")], "[1,2,34,5]")]
        {
            assert_eq!(array_length(runs.iter().map(Bytes::len)), whole.len());
            for size in [0, 1, 2, 3, 4, 5, 6, 9, 10, 1_000] {
                let mut chunks = JsonArrayChunks::new("[", runs.clone().into_iter(), "]");
                let mut joined = Vec::new();
                while let Some(chunk) = chunks.next_chunk(size) {
                    let longest = runs.iter().map(Bytes::len).max().unwrap_or_default() + "[]".len();
                    assert!((1..=longest.max(size + 1)).contains(&chunk.len()), "{chunk:?} of {size}");
                    joined.extend_from_slice(&chunk);
                }
                assert_eq!(String::from_utf8(joined).unwrap(), whole);
            }
        }
    }
}
