//! Sets of small numbers, leaves or parties, whose words can be combined.

/// A set of numbers. It takes as many bits as its largest member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    len: u64,
}

impl Bits {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a number; false when it was there.
    pub(crate) fn insert(&mut self, number: usize) -> bool {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u64::from(is_new);
        is_new
    }

    /// Takes a number out; false when it was not there.
    pub(crate) fn remove(&mut self, number: usize) -> bool {
        let (word, bit) = (number / 64, 1 << (number % 64));
        let Some(word) = self.words.get_mut(word).filter(|word| **word & bit != 0) else { return false };
        *word &= !bit;
        self.len -= 1;
        true
    }

    pub(crate) fn set(&mut self, number: usize, is_in: bool) {
        if is_in {
            self.insert(number);
        } else {
            self.remove(number);
        }
    }

    pub(crate) fn contains(&self, number: usize) -> bool {
        self.word(number / 64) & (1 << (number % 64)) != 0
    }

    /// Numbers `64 * at..64 * at + 64`, lowest first.
    pub(crate) fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(0)
    }

    /// Number of words that may be anything but 0.
    pub(crate) fn words(&self) -> usize {
        self.words.len()
    }

    /// Whether it has a number that `other` has not.
    pub(crate) fn has_beyond(&self, other: &Self) -> bool {
        (0..self.words.len()).any(|at| self.words[at] & !other.word(at) != 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| ones(*word).map(move |bit| at * 64 + bit))
    }

    /// Bytes that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.words.capacity() * 8
    }
}

/// The bits of a word that are set, lowest first.
pub(crate) fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros() as usize;
        word &= word - 1;
        Some(bit)
    })
}

/// The part of word `at` that lies in `range`.
pub(crate) fn mask(at: usize, range: &std::ops::Range<usize>) -> u64 {
    let (first, end) = (range.start.max(at * 64), range.end.min(at * 64 + 64));
    if first >= end {
        return 0;
    }
    let from_first = u64::MAX << (first - at * 64);
    let to_end = u64::MAX >> (at * 64 + 64 - end);
    from_first & to_end
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((0usize..300, any::<bool>()), 0..200)) {
            let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
            for (number, is_in) in steps {
                bits.set(number, is_in);
                if is_in { set.insert(number); } else { set.remove(&number); }
                prop_assert_eq!(bits.contains(number), is_in);
            }
            prop_assert_eq!(bits.len(), set.len() as u64);
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_mask_is_what_a_range_has_of_a_word(first in 0usize..200, end in 0usize..200, at in 0usize..4) {
            let inside: Vec<usize> = ones(mask(at, &(first..end))).map(|bit| at * 64 + bit).collect();
            let expected: Vec<usize> = (at * 64..at * 64 + 64).filter(|number| (first..end).contains(number)).collect();
            prop_assert_eq!(inside, expected);
        }
    }
}
