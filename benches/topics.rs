//! Who gets a topic's message: matching a name against 10, 10,000 and 1,000,000 filters.
//!
//! `cargo bench --profile ci --bench topics`. Half of the filters have no wildcard, the others one each.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use weft::{
    frame::{Address, AgentId, TopicFilter, TopicName},
    router::topics::Topics,
};

const FILTERS: [usize; 3] = [10, 10_000, 1_000_000];

/// Sites, rooms and sensors: filter `index` names one sensor, or one of its levels by a wildcard.
fn filter(index: usize) -> TopicFilter {
    let place = index / 4;
    let (site, room, sensor) = (place % 50, place / 50 % 200, place / 10_000);
    let text = match index % 4 {
        0 | 1 => format!("site-{site}/room-{room}/sensor-{sensor}"),
        2 => format!("site-{site}/+/sensor-{sensor}/{room}"),
        _ => format!("site-{site}/room-{room}/sensor-{sensor}/#"),
    };
    TopicFilter::new(text).expect("well-formed")
}

fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topics_match");
    for filters in FILTERS {
        let topics = Topics::default();
        for index in 0..filters {
            let agent = AgentId::new(format!("acme/listener-{index}")).expect("well-formed");
            topics.insert(&filter(index), &Address::agent(&agent));
        }
        let name = TopicName::new("site-0/room-0/sensor-0").expect("well-formed");
        assert_eq!(topics.matching(&name).len(), 3, "two by name, one by `#`");
        group.bench_function(format!("{filters}_filters"), |bencher| {
            bencher.iter(|| topics.matching(black_box(&name)));
        });
        let stranger = TopicName::new("site-0/room-0/nobody/listens/here").expect("well-formed");
        assert!(topics.matching(&stranger).is_empty());
        group.bench_function(format!("{filters}_filters_no_match"), |bencher| {
            bencher.iter(|| topics.matching(black_box(&stranger)));
        });
    }
    group.finish();
}

criterion_group!(benches, matching);
criterion_main!(benches);
