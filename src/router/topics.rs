//! Who subscribed to what: a trie of filters that publishers read without a lock.
//!
//! One writer at a time (a mutex), any number of readers. All nodes stand in one concurrent map, by their parent's number and the level
//! that leads to them (a map for each node would take 19 KiB of it); each node's subscribers stand behind one atomic pointer. A branch
//! that nobody needs any more is cut off by the writer; the map keeps it for readers that are inside until they leave.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use foldhash::quality::RandomState;
use papaya::{Equivalent, LocalGuard};

use crate::frame::{Address, TopicFilter, TopicName};

/// A map that is read without a lock. Looked up at least twice a message: the standard hasher would cost more than the rest of
/// the look-up. Seeded at random like that one.
pub(super) type HashMap<K, V> = papaya::HashMap<K, V, RandomState>;

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

/// A node's number. None is given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct NodeId(u64);

impl NodeId {
    const ROOT: Self = Self(0);
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    /// Changed by the writer alone. Readers do not look below a node that has none.
    children: AtomicUsize,
    subscribers: ArcSwapOption<Subscribers>,
}

impl Node {
    fn new(id: NodeId) -> Self {
        Self {
            id,
            children: AtomicUsize::new(0),
            subscribers: ArcSwapOption::empty(),
        }
    }

    fn has_children(&self) -> bool {
        self.children.load(Ordering::Relaxed) > 0
    }

    fn is_empty(&self) -> bool {
        self.subscribers.load().is_none() && !self.has_children()
    }

    fn change(&self, change: impl FnOnce(&mut Subscribers)) {
        let mut subscribers = self.subscribers.load().as_deref().cloned().unwrap_or_default();
        change(&mut subscribers);
        self.subscribers
            .store((!subscribers.is_empty()).then(|| Arc::new(subscribers)));
    }
}

/// A level of a name or a filter. It may be long and is asked for under many nodes, so it is hashed once.
#[derive(Clone, Copy, Debug)]
struct Level<'a> {
    text: &'a str,
    hash: u64,
}

/// The way from a node to its child.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    parent: NodeId,
    level: Box<str>,
    level_hash: u64,
}

impl std::hash::Hash for Edge {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.parent, self.level_hash).hash(state);
    }
}

/// [`Edge`], borrowed.
#[derive(Clone, Copy, Debug)]
struct EdgeRef<'a> {
    parent: NodeId,
    level: Level<'a>,
}

impl EdgeRef<'_> {
    fn to_edge(self) -> Edge {
        Edge {
            parent: self.parent,
            level: self.level.text.into(),
            level_hash: self.level.hash,
        }
    }
}

impl std::hash::Hash for EdgeRef<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.parent, self.level.hash).hash(state);
    }
}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, edge: &Edge) -> bool {
        self.parent == edge.parent && self.level.hash == edge.level_hash && *self.level.text == *edge.level
    }
}

/// The nodes, for a reader or a writer that is inside.
type Nodes<'a> = papaya::HashMapRef<'a, Edge, Node, RandomState, LocalGuard<'a>>;

/// Filters and the queues behind them.
#[derive(Debug)]
pub struct Topics {
    root: Node,
    nodes: HashMap<Edge, Node>,
    /// What levels are hashed by; seeded at random.
    levels: RandomState,
    /// Held by who writes: the number of the last node.
    last: Mutex<NodeId>,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            root: Node::new(NodeId::ROOT),
            nodes: HashMap::default(),
            levels: RandomState::default(),
            last: Mutex::new(NodeId::ROOT),
        }
    }
}

impl Topics {
    fn level<'a>(&self, text: &'a str) -> Level<'a> {
        Level {
            text,
            hash: self.levels.hash_one(text),
        }
    }

    /// Adds a queue under a filter; twice is once.
    pub fn insert(&self, filter: &TopicFilter, subscriber: impl Into<Subscriber>) {
        let subscriber = subscriber.into();
        // A panic elsewhere leaves nothing broken behind: at worst a number that is not given.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = self.nodes.pin();
        let mut node = &self.root;
        for text in filter.filter().split('/') {
            let edge = EdgeRef {
                parent: node.id,
                level: self.level(text),
            };
            node = nodes.get(&edge).unwrap_or_else(|| {
                last.0 += 1;
                node.children.fetch_add(1, Ordering::Relaxed);
                nodes.get_or_insert(edge.to_edge(), Node::new(*last))
            });
        }
        node.change(|subscribers| {
            if !subscribers.contains(&subscriber) {
                subscribers.push(subscriber);
            }
        });
    }

    /// Removes a queue from under a filter, and the branch that is empty then.
    pub fn remove(&self, filter: &TopicFilter, queue: &Address) {
        let _one_writer = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = self.nodes.pin();
        let mut node = &self.root;
        let mut path = Vec::new();
        for text in filter.filter().split('/') {
            let edge = EdgeRef {
                parent: node.id,
                level: self.level(text),
            };
            let Some(child) = nodes.get(&edge) else { return };
            path.push((node, edge, child));
            node = child;
        }
        node.change(|subscribers| subscribers.retain(|known| known.queue != *queue));
        for (parent, edge, child) in path.into_iter().rev() {
            if !child.is_empty() {
                break;
            }
            nodes.remove(&edge);
            parent.children.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The queues whose filters match, each once.
    pub fn matching(&self, name: &TopicName) -> Vec<Subscriber> {
        let search = Search {
            nodes: self.nodes.pin(),
            one: self.level("+"),
            rest: self.level("#"),
        };
        let levels: Vec<_> = name.as_str().split('/').map(|text| self.level(text)).collect();
        // Wildcards at the first level do not see names that start with `$` (MQTT 5.0 §4.7.2).
        let mut found = Vec::new();
        search.collect(&self.root, &levels, !name.as_str().starts_with('$'), &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// One match.
struct Search<'a> {
    nodes: Nodes<'a>,
    one: Level<'static>,
    rest: Level<'static>,
}

impl Search<'_> {
    /// Depth is bounded by the levels of a topic name (`TOPIC_LEVELS_MAX`). One path leads to each node, so a match looks at each at
    /// most once: what it costs is bounded by what the filters are.
    fn collect(&self, node: &Node, levels: &[Level<'_>], wildcards: bool, found: &mut Vec<Subscriber>) {
        let child = |level| {
            let parent = node.id;
            self.nodes.get(&EdgeRef { parent, level })
        };
        let is_inner = node.has_children();
        if is_inner
            && wildcards
            && let Some(rest) = child(self.rest)
        {
            take(rest, found);
        }
        let Some((level, deeper)) = levels.split_first() else {
            return take(node, found);
        };
        if !is_inner {
            return;
        }
        if let Some(child) = child(*level) {
            self.collect(child, deeper, true, found);
        }
        if wildcards && let Some(child) = child(self.one) {
            self.collect(child, deeper, true, found);
        }
    }
}

fn take(node: &Node, found: &mut Vec<Subscriber>) {
    if let Some(subscribers) = &*node.subscribers.load() {
        found.extend(subscribers.iter().cloned());
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
        assert!(topics.root.is_empty() && topics.nodes.is_empty());
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
        assert!(topics.root.is_empty() && topics.nodes.is_empty());
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
