//! Usage of peers' requests that are over, until whoever pays has it.
//!
//! A stream tells its usage with its last word. Where that word is lost with a connection, the server before us asks for it
//! here, and tells us when it is settled. Kept is only what came with a charge, and only for a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::limits::{USAGE_KEPT, USAGE_KEPT_MAX, USAGE_PAGE_MAX};
use crate::upstream::Usage;
use crate::upstream::usage::{Finished, Lives, Wanted};

/// What is kept. Clones share it.
#[derive(Debug, Clone)]
pub struct Kept {
    shelf: Arc<Mutex<Shelf>>,
    clock: Clock,
}

impl Kept {
    /// Nothing yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let shelf = Arc::default();
        Self { shelf, clock }
    }

    /// Keeps what the request `id` used. `told` is whether its stream said so to its end, which may still have been lost.
    pub fn keep(&self, id: &Arc<str>, charge: &Arc<str>, usage: Usage, told: bool) {
        let now = self.clock.now();
        self.shelf().keep(id, charge, usage, told, now);
    }

    /// What is kept and wanted; at most a page.
    #[must_use]
    pub fn find(&self, wanted: &Wanted) -> Vec<Finished> {
        let now = self.clock.now();
        self.shelf().find(wanted, now)
    }

    /// Lets go what is settled; those that were here.
    pub fn release(&self, mut ids: Vec<Arc<str>>) -> Vec<Arc<str>> {
        let mut shelf = self.shelf();
        ids.retain(|id| shelf.entries.remove(id).is_some());
        ids
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Shelf {
    entries: HashMap<Arc<str>, Entry>,
    /// Ids of those that were told, and of those that were not, in the order of their time. What nobody was told must
    /// not be pushed out by the many that all went well for.
    order: [VecDeque<(Duration, Arc<str>)>; 2],
}

#[derive(Debug)]
struct Entry {
    charge: Arc<str>,
    usage: Usage,
    at: Duration,
}

impl Shelf {
    fn keep(
        &mut self,
        id: &Arc<str>,
        charge: &Arc<str>,
        mut usage: Usage,
        told: bool,
        now: Duration,
    ) {
        self.tidy(now);
        if let Some(before) = self.entries.get(id) {
            // A request that came twice is charged once.
            usage = match before.usage.completion_tokens > usage.completion_tokens {
                true => before.usage,
                false => usage,
            };
        }
        let (at, charge) = (now, Arc::clone(charge));
        let entry = Entry { charge, usage, at };
        self.entries.insert(Arc::clone(id), entry);
        self.order[usize::from(!told)].push_back((now, Arc::clone(id)));
    }

    fn find(&mut self, wanted: &Wanted, now: Duration) -> Vec<Finished> {
        self.tidy(now);
        let finished = |(id, entry): (&Arc<str>, &Entry)| Finished {
            id: Arc::clone(id),
            charge: Arc::clone(&entry.charge),
            usage: entry.usage,
            site: None,
        };
        match wanted {
            Wanted::Request { id, .. } => {
                let found = self.entries.get_key_value(id);
                found.map(finished).into_iter().collect()
            }
            Wanted::Of { owner, lives } => {
                let (Lives::But(run) | Lives::One(run)) = lives;
                let (owner, run) = (format!("{owner}."), format!("{owner}.{run}."));
                let is_wanted = |charge: &str| match lives {
                    Lives::But(_) => charge.starts_with(&owner) && !charge.starts_with(&run),
                    Lives::One(_) => charge.starts_with(&run),
                };
                let all = self.entries.iter();
                let of_it = all.filter(|(_, entry)| is_wanted(&entry.charge));
                of_it.map(finished).take(USAGE_PAGE_MAX).collect()
            }
        }
    }

    /// Forgets what is too old, and the oldest of what is too much.
    fn tidy(&mut self, now: Duration) {
        for order in &mut self.order {
            while let Some((at, id)) = order.front() {
                let old = now.saturating_sub(*at) >= USAGE_KEPT;
                let known = self.entries.get(id).map(|entry| entry.at);
                // One that was kept again, or let go, stands here with its former time.
                let stale = known != Some(*at);
                if !old && !stale && order.len() < USAGE_KEPT_MAX {
                    break;
                }
                if !stale {
                    self.entries.remove(id);
                }
                order.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn used(completion_tokens: u32) -> Usage {
        Usage {
            prompt_tokens: 1,
            completion_tokens,
            ..Usage::default()
        }
    }

    fn wanted(id: &str) -> Wanted {
        Wanted::request(&id.into())
    }

    fn tokens(kept: &Kept, id: &str) -> Option<u32> {
        let found = kept.find(&wanted(id));
        found.first().map(|one| one.usage.completion_tokens)
    }

    #[test]
    fn usage_is_there_until_it_is_settled_or_too_old() {
        let clock = Clock::manual(0);
        let kept = Kept::new(clock.clone());
        kept.keep(&"a".into(), &"c".into(), used(3), false);
        kept.keep(&"b".into(), &"c".into(), used(4), true);
        // Tried again at the same server.
        kept.keep(&"a".into(), &"c".into(), used(2), false);
        assert_eq!((tokens(&kept, "a"), tokens(&kept, "b")), (Some(3), Some(4)));
        let released = kept.release(vec!["a".into(), "nobody".into()]);
        assert_eq!(released, ["a".into()]);
        assert_eq!((tokens(&kept, "a"), tokens(&kept, "b")), (None, Some(4)));
        clock.advance(USAGE_KEPT);
        assert_eq!(tokens(&kept, "b"), None);
        assert!(kept.shelf().order.iter().all(VecDeque::is_empty));
    }

    #[test]
    fn an_owner_gets_what_its_earlier_lives_left_or_one_of_them() {
        let kept = Kept::new(Clock::manual(0));
        let (owner, run, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        for (id, of, life) in [
            ("before", owner, other),
            ("now", owner, run),
            ("others", other, other),
        ] {
            let charge = format!("{of}.{life}.x").into();
            kept.keep(&id.into(), &charge, used(1), true);
        }
        for (lives, of_them) in [(Lives::But(run), "before"), (Lives::One(run), "now")] {
            let found = kept.find(&Wanted::Of { owner, lives });
            let ids: Vec<&str> = found.iter().map(|one| &*one.id).collect();
            assert_eq!(ids, [of_them]);
        }
    }

    #[test]
    fn what_was_told_never_pushes_out_what_was_not() {
        let mut shelf = Shelf::default();
        let now = Duration::ZERO;
        shelf.keep(&"lost".into(), &"c".into(), used(9), false, now);
        for number in 0..USAGE_KEPT_MAX + 100 {
            let id = number.to_string().into();
            shelf.keep(&id, &"c".into(), used(1), true, now);
        }
        assert_eq!(shelf.find(&wanted("lost"), now).len(), 1);
        assert!(shelf.find(&wanted("0"), now).is_empty());
        assert!(shelf.entries.len() <= USAGE_KEPT_MAX + 1);
        assert!(
            shelf
                .order
                .iter()
                .all(|order| order.len() <= USAGE_KEPT_MAX)
        );
    }
}
