//! Connections at once: how many in all and from one address. Start at [`Gate`].

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use super::counters::Counters;

/// Who is in, by address.
#[derive(Debug)]
pub struct Gate {
    max: usize,
    per_address_max: usize,
    open: Mutex<(usize, HashMap<IpAddr, usize>)>,
    counters: Arc<Counters>,
}

impl Gate {
    /// Lets in at most `max` connections, `per_address_max` of them from one address.
    pub fn new(max: usize, per_address_max: usize, counters: Arc<Counters>) -> Self {
        Self {
            max,
            per_address_max,
            open: Mutex::default(),
            counters,
        }
    }

    /// Lets a connection in and counts it, or counts a refusal.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = open.1.get(&address).copied().unwrap_or(0);
        if open.0 >= self.max || of_address >= self.per_address_max {
            Counters::add(&self.counters.connections_refused, 1);
            return None;
        }
        open.0 += 1;
        open.1.insert(address, of_address + 1);
        Counters::add(&self.counters.connections, 1);
        Counters::add(&self.counters.connections_total, 1);
        Some(Pass {
            gate: Arc::clone(self),
            address,
        })
    }

    fn leave(&self, address: IpAddr) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 -= 1;
        if let Some(of_address) = open.1.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                open.1.remove(&address);
            }
        }
        self.counters.connections.fetch_sub(1, Relaxed);
    }
}

/// A connection's place behind the gate; leaves it when dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Pass {
    /// What the edge counts.
    pub fn counters(&self) -> &Counters {
        &self.gate.counters
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_closes_at_either_bound_and_opens_when_one_leaves() {
        let counters = Arc::new(Counters::default());
        let gate = Arc::new(Gate::new(3, 2, Arc::clone(&counters)));
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = gate.enter(here).unwrap();
        let _second = gate.enter(here).unwrap();
        assert!(gate.enter(here).is_none(), "two of one address are in");
        let _third = gate.enter(there).unwrap();
        assert!(gate.enter(there).is_none(), "three are in");
        drop(first);
        assert!(gate.enter(here).is_some());
        assert_eq!(counters.snapshot().connections, 2);
        assert_eq!(counters.snapshot().connections_refused, 2);
    }
}
