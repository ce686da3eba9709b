//! What has to go so that something else fits: the policy, without I/O or clock.
//!
//! Two limits ask for room: the quota, with watermarks, and the file system's free space. Nothing goes while what is
//! asked for fits below the high watermark. When it does not, things go in order of their [`Class`], then least recently used first,
//! until use would be at the low watermark; recent partials go only as far as it would not fit otherwise.
//! When even all of it would not be enough, nothing goes: a blob that cannot fit must not empty the store.

/// What a candidate is, in the order in which they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A blob in progress that nobody has had open for long.
    StalePartial,
    /// A whole blob.
    Blob,
    /// A blob in progress that was let go a short while ago, and may be resumed.
    RecentPartial,
}

/// Something that could go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<Id> {
    pub(crate) id: Id,
    pub(crate) class: Class,
    /// Bytes that come free.
    pub(crate) size: u64,
    /// Larger is later; compared within a class only.
    pub(crate) last_use: u64,
    /// Never goes.
    pub(crate) pinned: bool,
}

/// How things stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes of the quota in use or reserved.
    pub(crate) used: u64,
    /// Bytes asked for.
    pub(crate) needed: u64,
    /// Bytes of these that are on disk already: a partial is resumed.
    pub(crate) on_disk: u64,
    /// Bytes that may be in use at most.
    pub(crate) quota: u64,
    /// Bytes above which eviction begins.
    pub(crate) high: u64,
    /// Bytes down to which it goes.
    pub(crate) low: u64,
    /// Bytes that the file system has left.
    pub(crate) free: u64,
    /// Bytes of it that are not ours to take.
    pub(crate) keep_free: u64,
    /// Bytes reserved and not written yet.
    pub(crate) outstanding: u64,
    /// Whole blobs held.
    pub(crate) blobs: usize,
    /// Whole blobs that may be held.
    pub(crate) max_blobs: usize,
}

impl Room {
    /// Bytes without which it does not fit.
    fn must(&self) -> u64 {
        let over_quota = self.used.saturating_add(self.needed).saturating_sub(self.quota);
        let unwritten = self.needed.saturating_sub(self.on_disk);
        let wanted =
            if unwritten == 0 { 0 } else { unwritten.saturating_add(self.outstanding).saturating_add(self.keep_free) };
        over_quota.max(wanted.saturating_sub(self.free))
    }

    /// Bytes that should come free, so that the next blob does not evict again at once.
    fn should(&self) -> u64 {
        let after = self.used.saturating_add(self.needed);
        let over_low = if after > self.high { after.saturating_sub(self.low) } else { 0 };
        over_low.max(self.must())
    }

    /// Blobs that must go so that one more may come.
    fn must_blobs(&self) -> usize {
        (self.blobs + 1).saturating_sub(self.max_blobs)
    }

    /// Whether it fits as things are.
    pub(crate) fn fits(&self) -> bool {
        self.should() == 0 && self.must_blobs() == 0
    }
}

/// What is to go, in order; `None` when it does not fit whatever goes.
pub(crate) fn plan<Id>(room: &Room, mut candidates: Vec<Candidate<Id>>) -> Option<Vec<Id>> {
    let (must, should, must_blobs) = (room.must(), room.should(), room.must_blobs());
    candidates.retain(|candidate| !candidate.pinned);
    candidates.sort_by_key(|candidate| (candidate.class, candidate.last_use));

    let mut freed = 0u64;
    let mut blobs = 0;
    let mut going = Vec::new();
    for candidate in candidates {
        let goes = match candidate.class {
            Class::StalePartial => freed < should,
            Class::Blob => freed < should || blobs < must_blobs,
            Class::RecentPartial => freed < must,
        };
        if goes {
            freed = freed.saturating_add(candidate.size);
            blobs += usize::from(candidate.class == Class::Blob);
            going.push(candidate.id);
        }
    }
    (freed >= must && blobs >= must_blobs).then_some(going)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room {
        used: 90,
        needed: 10,
        on_disk: 0,
        quota: 100,
        high: 95,
        low: 80,
        free: 1000,
        keep_free: 0,
        outstanding: 0,
        blobs: 9,
        max_blobs: 100,
    };

    fn blob(id: u32, size: u64, last_use: u64) -> Candidate<u32> {
        Candidate { id, class: Class::Blob, size, last_use, pinned: false }
    }

    #[test]
    fn nothing_goes_below_the_high_watermark() {
        let room = Room { needed: 5, ..ROOM };
        assert!(room.fits());
        assert_eq!(plan(&room, vec![blob(1, 50, 1)]), Some(vec![]));
    }

    #[test]
    fn the_least_recently_used_go_first_down_to_the_low_watermark() {
        let candidates = vec![blob(1, 10, 30), blob(2, 10, 10), blob(3, 10, 20), blob(4, 10, 40)];
        assert_eq!(plan(&ROOM, candidates), Some(vec![2, 3]));
    }

    #[test]
    fn pinned_blobs_stay_even_if_nothing_fits_then() {
        let pinned = Candidate { pinned: true, ..blob(1, 50, 1) };
        let room = Room { needed: 20, ..ROOM };
        assert_eq!(plan(&room, vec![pinned.clone()]), None);
        assert_eq!(plan(&room, vec![pinned, blob(2, 10, 2)]), Some(vec![2]));
    }

    #[test]
    fn stale_partials_go_before_blobs_and_recent_ones_only_if_they_must() {
        let partial = |id, class, size| Candidate { class, ..blob(id, size, 99) };
        let candidates =
            || vec![blob(1, 10, 1), partial(2, Class::StalePartial, 15), partial(3, Class::RecentPartial, 15)];
        assert_eq!(plan(&ROOM, candidates()), Some(vec![2, 1]));
        let tight = Room { needed: 40, ..ROOM };
        assert_eq!(plan(&tight, candidates()), Some(vec![2, 1, 3]));
    }

    #[test]
    fn a_blob_that_cannot_fit_evicts_nothing() {
        assert_eq!(plan(&Room { needed: 101, ..ROOM }, vec![blob(1, 90, 1)]), None);
    }

    #[test]
    fn the_file_systems_room_counts_too() {
        let room = Room { used: 10, needed: 10, free: 30, keep_free: 20, outstanding: 5, ..ROOM };
        assert!(!room.fits());
        assert_eq!(plan(&room, vec![blob(1, 4, 1), blob(2, 4, 2), blob(3, 4, 3)]), Some(vec![1, 2]));
    }

    #[test]
    fn one_blob_too_many_sends_one_away() {
        let room = Room { used: 1, needed: 1, blobs: 100, ..ROOM };
        assert_eq!(plan(&room, vec![blob(1, 0, 2), blob(2, 0, 1)]), Some(vec![2]));
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate<usize>>> {
        let class = prop_oneof![Just(Class::StalePartial), Just(Class::Blob), Just(Class::RecentPartial)];
        let one = (class, 0u64..50, 0u64..20, any::<bool>());
        proptest::collection::vec(one, 0..30).prop_map(|all| {
            let candidate = |(id, (class, size, last_use, pinned))| Candidate { id, class, size, last_use, pinned };
            all.into_iter().enumerate().map(candidate).collect()
        })
    }

    proptest! {
        #[test]
        fn a_plan_fits_takes_no_more_than_it_must_and_never_what_is_pinned(
            candidates in candidates(),
            needed in 0u64..300, quota in 1u64..400, free in 0u64..400, keep_free in 0u64..50, outstanding in 0u64..50, max_blobs in 0usize..30,
        ) {
            let used = candidates.iter().map(|candidate| candidate.size).sum();
            let blobs = candidates.iter().filter(|candidate| candidate.class == Class::Blob).count();
            let (high, low) = (quota * 95 / 100, quota * 85 / 100);
            let room = Room { used, needed, on_disk: 0, quota, high, low, free, keep_free, outstanding, blobs, max_blobs };
            let loose: Vec<_> = candidates.iter().filter(|candidate| !candidate.pinned).collect();
            let loose_bytes: u64 = loose.iter().map(|candidate| candidate.size).sum();
            let loose_blobs = loose.iter().filter(|candidate| candidate.class == Class::Blob).count();

            match plan(&room, candidates.clone()) {
                None => prop_assert!(loose_bytes < room.must() || loose_blobs < room.must_blobs()),
                Some(going) => {
                    prop_assert!(!room.fits() || going.is_empty());
                    let gone: Vec<_> = going.iter().map(|&id| &candidates[id]).collect();
                    prop_assert!(gone.iter().all(|candidate| !candidate.pinned));
                    let freed: u64 = gone.iter().map(|candidate| candidate.size).sum();
                    prop_assert!(used + needed <= quota + freed);
                    prop_assert!(needed == 0 || needed + outstanding + keep_free <= free + freed);
                    // Without the last to go, some limit would not have been met.
                    if let Some(last) = gone.last() {
                        let without = freed - last.size;
                        let blobs_without = gone.iter().filter(|candidate| candidate.class == Class::Blob).count() - usize::from(last.class == Class::Blob);
                        prop_assert!(without < room.should() || blobs_without < room.must_blobs());
                    }
                    // Nobody goes before somebody of the same class who was used longer ago.
                    for stays in loose.iter().filter(|candidate| !going.contains(&candidate.id)) {
                        let jumped = gone.iter().any(|goes| goes.class == stays.class && goes.last_use > stays.last_use);
                        prop_assert!(!jumped);
                    }
                }
            }
        }
    }
}
