//! Independent work side by side on the CPU.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::DispatchDevice;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::device::Device;

impl Device {
    /// How many items [`each`](Self::each) works on at once, given so many: the threads of the embedded CPU; 1 on other devices.
    pub fn lanes(&self) -> usize {
        match self.raw() {
            DispatchDevice::Flex(_) => rayon::current_num_threads(),
            _ => 1,
        }
    }

    /// The result of `work` for each item, in their order.
    ///
    /// The embedded CPU works on as many items at once as it has threads, each item on its share of them, so that what one operation
    /// does on a single thread keeps no other core waiting; memory grows likewise. Where that leaves half of the threads or more without
    /// an item at the end, the last items share all of them. Another device takes one item after the other. An item's result does not
    /// depend on what is beside it.
    pub fn each<I: Send, T: Send>(
        &self,
        items: impl IntoIterator<Item = I, IntoIter: ExactSizeIterator + Send>,
        work: impl Fn(I) -> T + Sync,
    ) -> Vec<T> {
        let mut items = items.into_iter();
        let lanes = self.lanes();
        let first = match items.len() % lanes {
            // One of so many would have a single thread after all, and the others would wait for it.
            last if last > lanes / 2 => items.len(),
            last => items.len() - last,
        };
        let mut results = side_by_side(lanes, items.by_ref().take(first), &work);
        results.extend(side_by_side(lanes, items, &work));
        results
    }
}

/// The result of `work` for each item, as many at once as there are lanes at most.
fn side_by_side<I: Send, T: Send>(
    lanes: usize,
    items: impl ExactSizeIterator<Item = I> + Send,
    work: &(impl Fn(I) -> T + Sync),
) -> Vec<T> {
    let lanes = items.len().min(lanes);
    let pools = match lanes {
        0 | 1 => None,
        _ => pools(lanes, rayon::current_num_threads()),
    };
    let Some(pools) = pools else {
        return items.map(work).collect();
    };
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let queue = Mutex::new(items.enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    in_each(&pools, &|| {
        while let Some((place, item)) = next() {
            let result = work(item);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((place, result));
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

/// `lanes` pools that share `threads` among them, kept for the next call; `None` where the system gives no more threads.
fn pools(lanes: usize, threads: usize) -> Option<Arc<[ThreadPool]>> {
    type Kept = BTreeMap<(usize, usize), Arc<[ThreadPool]>>;
    static KEPT: Mutex<Kept> = Mutex::new(BTreeMap::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pools) = kept.get(&(lanes, threads)) {
        return Some(pools.clone());
    }
    let pools = (0..lanes).map(|lane| {
        let share = (threads + lane) / lanes;
        ThreadPoolBuilder::new().num_threads(share).build()
    });
    let pools: Arc<[ThreadPool]> = pools.collect::<Result<Vec<_>, _>>().ok()?.into();
    kept.insert((lanes, threads), pools.clone());
    Some(pools)
}

/// Runs `work` once in every pool, all at the same time.
fn in_each(pools: &[ThreadPool], work: &(dyn Fn() + Sync)) {
    if let [pool, rest @ ..] = pools {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| work());
            in_each(rest, work);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("the system has threads").install(work)
    }

    #[test]
    fn results_come_in_the_order_of_their_items() {
        for threads in [1, 2, 3, 5] {
            let squares = with_threads(threads, || Device::cpu().each(0..20u32, |n| n * n));
            assert_eq!(squares, (0..20).map(|n| n * n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn there_are_as_many_lanes_as_threads() {
        assert_eq!(with_threads(3, || Device::cpu().lanes()), 3);
    }

    #[test]
    fn items_share_the_threads() {
        let shares = |items: usize| {
            with_threads(5, || {
                let mut shares = Device::cpu().each(0..items, |_| rayon::current_num_threads());
                shares.sort_unstable();
                shares
            })
        };
        assert_eq!(shares(1), [5]);
        let of_two = shares(2);
        let halves = |shares: &[usize]| shares.iter().all(|share| [2, 3].contains(share));
        assert!(halves(&of_two), "{of_two:?}");
        assert_eq!(shares(9), [1; 9]);
        // Two that are left over would leave three threads without any, and one would leave four.
        let of_twelve = shares(12);
        assert_eq!(of_twelve[..10], [1; 10]);
        assert!(halves(&of_twelve[10..]), "{of_twelve:?}");
        assert_eq!(shares(6), [1, 1, 1, 1, 1, 5]);
    }

    #[test]
    fn items_are_worked_on_at_the_same_time() {
        let barrier = std::sync::Barrier::new(3);
        let met = with_threads(3, || {
            Device::cpu().each(0..3, |_| barrier.wait().is_leader())
        });
        assert_eq!(met.iter().filter(|leader| **leader).count(), 1);
    }

    #[test]
    fn work_may_itself_be_shared_out() {
        let sums = with_threads(4, || {
            Device::cpu().each(0..6u32, |n| {
                let device = Device::cpu();
                let parts = device.each(0..4u32, |m| device.each(0..3u32, |k| n * m * k));
                parts.into_iter().flatten().sum::<u32>()
            })
        });
        assert_eq!(sums, [0, 18, 36, 54, 72, 90]);
    }
}
