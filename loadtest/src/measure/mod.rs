//! What is measured: latencies, the time line, processor time and memory, fairness. Knows nothing of what carries the messages.

pub mod fairness;
pub mod latency;
pub mod process;
pub mod timeline;
