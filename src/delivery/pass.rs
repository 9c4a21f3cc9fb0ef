//! What is not kept: runs are passed on to a session that is there, or dropped. Nothing here is a state.
//!
//! That is QoS 0, and QoS 1 to queues that end with their session, whose edge has the rest of the way in its own hands. A run goes to one session whole where the queue has one session, which is the usual case; where several take turns, frame by
//! frame. Start at [`ShardState::handle_pass`].

use super::{
    Gate,
    credit::Credit,
    hand_out::wish_of,
    message::ConsumerId,
    output::{Acceptance, Out, PassedOn, PassedRelay, Verdict},
    queue::QueueIx,
    state::{Route, ShardState, acceptance, count},
};
use crate::{
    frame::{Address, PREFIX_BYTES, Qos, Run, record::Status},
    time::Timestamp,
};

/// What an entry of a run has beside its id and its body, at most, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 7;

/// Messages that are not kept, at the door of their shard.
#[derive(Debug)]
pub struct Pass<A> {
    pub run: Run,
    pub route: Route,
    /// Who wants to know; `None`: nobody. One answer for all of them.
    pub answer: Option<A>,
}

impl<A> ShardState<A> {
    /// Passes messages on, now or never.
    pub fn handle_pass(&mut self, pass: Pass<A>, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let Pass { run, route, answer } = pass;
        let taken = match &route {
            Route::FanOut { targets, .. } if targets.is_empty() => {
                *lost(run.envelope().qos(), out) += run.frames() as u64;
                Acceptance {
                    recipients: 0,
                    ..acceptance(None)
                }
            }
            Route::FanOut { targets, .. } => {
                let targets = targets.clone();
                let taken = Acceptance {
                    recipients: count(targets.len()),
                    attended: true,
                    ..acceptance(Some(Status::Sent))
                };
                // QoS 1 is answered when it is in the lanes: that is the bound of what is under way.
                let (now, later) = match run.envelope().qos() {
                    Qos::AtMostOnce => (answer, None),
                    Qos::AtLeastOnce | Qos::ExactlyOnce => (None, answer),
                };
                out.passed_relays.push(PassedRelay {
                    run,
                    targets,
                    answer: later.map(|answer| (answer, taken)),
                });
                return out.answers.extend(now.map(|answer| (answer, Verdict::Accepted(taken))));
            }
            Route::Envelope { hash, .. } => {
                let found = self.find_queue(*hash, run.envelope().to());
                self.pass_on(found, run, now, out, gate)
            }
            Route::Copy { queue } | Route::Straight { target: queue, .. } => {
                let found = self.find_queue(queue.hash64(), queue.as_str());
                self.pass_on(found, run, now, out, gate)
            }
        };
        out.answers
            .extend(answer.map(|answer| (answer, Verdict::Accepted(taken))));
    }

    /// A copy of a fan-out comes in for one of its targets, who gets the messages where somebody is there.
    pub fn handle_passed_copy(
        &mut self,
        run: Run,
        target: &Address,
        now: Timestamp,
        out: &mut Out<A>,
        gate: &Gate<'_>,
    ) {
        let found = self.find_queue(target.hash64(), target.as_str());
        self.pass_on(found, run, now, out, gate);
    }

    fn pass_on(
        &mut self,
        found: Option<QueueIx>,
        run: Run,
        now: Timestamp,
        out: &mut Out<A>,
        gate: &Gate<'_>,
    ) -> Acceptance {
        let (all, qos) = (run.frames(), run.envelope().qos());
        let is_expired = !run.stamp.expires_at.is_never() && run.stamp.expires_at <= now;
        let (passed, consumer) = match found {
            Some(ix) if !is_expired && self.queue(ix).consumers.len() == 1 => self.pass_to_one(ix, run, out, gate),
            Some(ix) if !is_expired => self.pass_in_turns(ix, &run, out, gate),
            _ => (0, None),
        };
        // One of QoS 1 ends in one way: expired, or rejected.
        if !(is_expired && qos.is_durable()) {
            *lost(qos, out) += (all - passed) as u64;
        }
        out.counts.accepted[qos as usize] += passed as u64;
        out.counts.handed_out[qos as usize] += passed as u64;
        out.counts.expired += if is_expired { all as u64 } else { 0 };
        match consumer {
            Some(consumer) => Acceptance {
                consumer: Some(consumer),
                attended: true,
                ..acceptance(Some(Status::Sent))
            },
            None => acceptance(None),
        }
    }

    /// To the only session, as many as its lane takes; says how many.
    fn pass_to_one(&mut self, ix: QueueIx, run: Run, out: &mut Out<A>, gate: &Gate<'_>) -> (usize, Option<ConsumerId>) {
        let queue = self.queue_mut(ix);
        let address = queue.address.clone();
        let wish = wish_of(run.envelope());
        let picked = queue.pick_uncredited(wish, |consumer| gate(consumer, run.envelope()));
        let Some((consumer, credit)) = picked.map(|consumer| (consumer.id, consumer.credit.clone())) else {
            return (0, None);
        };
        let Some(run) = take_room(run, &credit) else {
            return (0, None);
        };
        let passed = run.frames();
        out.passed_on.push(PassedOn {
            consumer,
            credit,
            run,
            queue: address,
        });
        (passed, Some(consumer))
    }

    /// Each frame to the session whose turn it is.
    fn pass_in_turns(
        &mut self,
        ix: QueueIx,
        run: &Run,
        out: &mut Out<A>,
        gate: &Gate<'_>,
    ) -> (usize, Option<ConsumerId>) {
        let queue = self.queue_mut(ix);
        let address = queue.address.clone();
        let (mut passed, mut last) = (0, None);
        for frame in run {
            let wish = wish_of(&frame.envelope);
            let bytes = frame.encoded_len();
            let picked = queue.pick_uncredited(wish, |consumer| {
                consumer.credit.lane_room().takes(1, bytes) && gate(consumer, &frame.envelope)
            });
            let Some(consumer) = picked else { continue };
            consumer.credit.enter_lane(1, bytes);
            consumer.credit.chunk_entered();
            (passed, last) = (passed + 1, Some(consumer.id));
            out.passed_on.push(PassedOn {
                consumer: consumer.id,
                credit: consumer.credit.clone(),
                run: Run::one(frame),
                queue: address.clone(),
            });
        }
        (passed, last)
    }
}

/// Where those are counted that nobody gets.
fn lost<A>(qos: Qos, out: &mut Out<A>) -> &mut u64 {
    match qos {
        Qos::AtMostOnce => &mut out.counts.dropped,
        Qos::AtLeastOnce | Qos::ExactlyOnce => &mut out.counts.rejected,
    }
}

/// The run, or as much of its front as a lane has room for, which is taken; `None` where that is nothing.
fn take_room(mut run: Run, credit: &Credit) -> Option<Run> {
    let room = credit.lane_room();
    let run = if room.takes(run.frames(), run.weight_bytes()) {
        run
    } else {
        let frames = frames_within(&run, room.frames, room.bytes);
        run.split_to(frames)?
    };
    credit.enter_lane(run.frames(), run.weight_bytes());
    credit.chunk_entered();
    Some(run)
}

/// How many frames of a run's front, without its last, have room in so many frames and bytes.
fn frames_within(run: &Run, frames_max: usize, bytes_max: usize) -> usize {
    let (mut frames, mut bytes) = (0, PREFIX_BYTES + run.envelope().as_bytes().len());
    run.visit(|id, body| {
        bytes += id.len() + ENTRY_OVERHEAD_BYTES + body.len();
        if frames < frames_max && bytes <= bytes_max {
            frames += 1;
        }
    });
    frames.min(run.frames() - 1)
}
