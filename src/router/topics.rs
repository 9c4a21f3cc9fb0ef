//! Who subscribed to what: a trie of filters that publishers read without a lock.
//!
//! One writer at a time (a mutex), any number of readers: children stand in concurrent maps, each node's subscribers behind one
//! atomic pointer. A branch that nobody needs any more is cut off by the writer; readers inside keep it alive until they leave.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;

use crate::frame::{Address, TopicFilter, TopicName};

/// A map that is read without a lock. Looked up at least twice a message: the standard hasher would cost more than the rest of
/// the look-up. Seeded at random like that one.
pub(super) type HashMap<K, V> = papaya::HashMap<K, V, foldhash::quality::RandomState>;

/// A queue that takes what is published under a filter. Those that last are sorted before those that take messages as they pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscriber {
    /// The queue ends with its session, whose edge has QoS 1 in its own hands: nothing of it need be kept.
    pub passes: bool,
    pub queue: Address,
}

impl From<&Address> for Subscriber {
    /// One that keeps what it takes.
    fn from(queue: &Address) -> Self {
        Self {
            passes: false,
            queue: queue.clone(),
        }
    }
}

/// The subscribers of one node.
type Subscribers = Vec<Subscriber>;

#[derive(Debug, Default)]
struct Node {
    children: OnceLock<HashMap<Box<str>, Arc<Node>>>,
    subscribers: ArcSwapOption<Subscribers>,
}

impl Node {
    fn child(&self, level: &str) -> Option<Arc<Node>> {
        self.children.get()?.pin().get(level).cloned()
    }

    fn child_or_new(&self, level: &str) -> Arc<Node> {
        let children = self.children.get_or_init(HashMap::default).pin();
        children.get_or_insert_with(level.into(), Arc::default).clone()
    }

    fn is_empty(&self) -> bool {
        self.subscribers.load().is_none() && self.children.get().is_none_or(HashMap::is_empty)
    }

    fn change(&self, change: impl FnOnce(&mut Subscribers)) {
        let mut subscribers = self.subscribers.load().as_deref().cloned().unwrap_or_default();
        change(&mut subscribers);
        self.subscribers
            .store((!subscribers.is_empty()).then(|| Arc::new(subscribers)));
    }
}

/// Filters and the queues behind them.
#[derive(Debug, Default)]
pub struct Topics {
    root: Node,
    writer: Mutex<()>,
}

impl Topics {
    /// Adds a queue under a filter; twice is once.
    pub fn insert(&self, filter: &TopicFilter, subscriber: impl Into<Subscriber>) {
        let subscriber = subscriber.into();
        // The mutex guards no data of its own, so a panic elsewhere leaves nothing broken behind.
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut levels = filter.filter().split('/');
        let first = levels.next().unwrap_or_default();
        let leaf = levels.fold(self.root.child_or_new(first), |node, level| node.child_or_new(level));
        leaf.change(|subscribers| {
            if !subscribers.contains(&subscriber) {
                subscribers.push(subscriber);
            }
        });
    }

    /// Removes a queue from under a filter, and the branch that is empty then.
    pub fn remove(&self, filter: &TopicFilter, queue: &Address) {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let levels: Vec<&str> = filter.filter().split('/').collect();
        let mut path: Vec<Arc<Node>> = Vec::with_capacity(levels.len());
        for level in &levels {
            let next = path
                .last()
                .map_or_else(|| self.root.child(level), |node| node.child(level));
            match next {
                Some(node) => path.push(node),
                None => return,
            }
        }
        if let Some(leaf) = path.last() {
            leaf.change(|subscribers| subscribers.retain(|known| known.queue != *queue));
        }
        for at in (0..path.len()).rev() {
            if !path[at].is_empty() {
                break;
            }
            let parent = if at == 0 { &self.root } else { &*path[at - 1] };
            if let Some(children) = parent.children.get() {
                children.pin().remove(levels[at]);
            }
        }
    }

    /// The queues whose filters match, each once.
    pub fn matching(&self, name: &TopicName) -> Vec<Subscriber> {
        let levels: Vec<&str> = name.as_str().split('/').collect();
        let mut found = Vec::new();
        // Wildcards at the first level do not see names that start with `$` (MQTT 5.0 §4.7.2).
        collect(&self.root, &levels, !name.as_str().starts_with('$'), &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Depth is bounded by the levels of a topic name (`TOPIC_LEVELS_MAX`). One path leads to each node, so a match looks at each at most
/// once: what it costs is bounded by what the filters are.
fn collect(node: &Node, levels: &[&str], wildcards: bool, found: &mut Vec<Subscriber>) {
    let take = |node: &Node, found: &mut Vec<Subscriber>| {
        if let Some(subscribers) = &*node.subscribers.load() {
            found.extend(subscribers.iter().cloned());
        }
    };
    if wildcards && let Some(rest) = node.child("#") {
        take(&rest, found);
    }
    let Some((level, deeper)) = levels.split_first() else {
        return take(node, found);
    };
    if let Some(child) = node.child(level) {
        collect(&child, deeper, true, found);
    }
    if wildcards && let Some(child) = node.child("+") {
        collect(&child, deeper, true, found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::limits::TOPIC_LEVELS_MAX;

    fn queue(number: usize) -> Address {
        format!("agent:a{number}#q").parse().unwrap()
    }

    fn queues(found: Vec<Subscriber>) -> Vec<Address> {
        found.into_iter().map(|subscriber| subscriber.queue).collect()
    }

    #[test]
    fn an_emptied_trie_holds_no_nodes() {
        let topics = Topics::default();
        let filters: Vec<_> = ["a/b/c", "a/+", "#", "a/b/#"]
            .map(|f| TopicFilter::new(f).unwrap())
            .into();
        filters.iter().for_each(|filter| topics.insert(filter, &queue(1)));
        assert_eq!(queues(topics.matching(&TopicName::new("a/b/c").unwrap())), [queue(1)]);
        filters.iter().for_each(|filter| topics.remove(filter, &queue(1)));
        assert!(topics.root.is_empty());
    }

    /// Distinct filters of so many levels that all match `x/x/…`: each level is `+` or `x`, as the bits of the filter's number say, again
    /// and again.
    fn mixed(count: usize, levels: usize) -> Vec<TopicFilter> {
        let filter = |number: usize| {
            let level = |at: usize| if number >> (at % 10) & 1 == 1 { "+" } else { "x" };
            TopicFilter::new((0..levels).map(level).collect::<Vec<_>>().join("/")).unwrap()
        };
        (0..count).map(filter).collect()
    }

    #[test]
    fn a_deep_name_visits_each_node_of_the_trie_once_however_filters_mix_wildcards_and_names() {
        let topics = Topics::default();
        let filters = mixed(1_000, 200);
        for (at, filter) in filters.iter().enumerate() {
            topics.insert(filter, &queue(at));
        }
        let name = TopicName::new(["x"; 200].join("/")).unwrap();
        assert_eq!(topics.matching(&name).len(), filters.len());
        assert!(
            topics
                .matching(&TopicName::new(["x"; 199].join("/")).unwrap())
                .is_empty()
        );
        for (at, filter) in filters.iter().enumerate() {
            topics.remove(filter, &queue(at));
        }
        assert!(topics.root.is_empty());
    }

    #[test]
    fn the_deepest_filters_are_matched_and_let_go_of_on_a_small_stack() {
        const STACK_BYTES: usize = 512 * 1024;
        let deepest = || {
            let topics = Topics::default();
            for filter in mixed(4, TOPIC_LEVELS_MAX) {
                topics.insert(&filter, &queue(1));
            }
            let name = TopicName::new(["x"; TOPIC_LEVELS_MAX].join("/")).unwrap();
            assert_eq!(queues(topics.matching(&name)), [queue(1)]);
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(deepest);
        thread.unwrap().join().unwrap();
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_matching_each_filter(
            filters in proptest::collection::vec("(\\$?[ab+]|)(/([abc+]|)){0,3}(/#)?", 1..20),
            removed in proptest::collection::vec(any::<bool>(), 20),
            name in "(\\$?[ab]|)(/([abc]|)){0,3}",
        ) {
            let Ok(name) = TopicName::new(&name) else { return Ok(()) };
            let topics = Topics::default();
            let filters: Vec<_> = filters.iter().filter_map(|text| TopicFilter::new(text).ok()).enumerate().collect();
            filters.iter().for_each(|(at, filter)| topics.insert(filter, &queue(*at)));
            let (gone, left): (Vec<_>, Vec<_>) = filters.iter().partition(|(at, _)| removed[*at]);
            gone.iter().for_each(|(at, filter)| topics.remove(filter, &queue(*at)));
            let mut expected: Vec<_> = left.iter().filter(|(_, f)| f.matches(&name)).map(|(at, _)| queue(*at)).collect();
            expected.sort_unstable();
            prop_assert_eq!(queues(topics.matching(&name)), expected);
        }
    }
}
