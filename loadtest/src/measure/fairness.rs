//! How evenly sessions were served: Jain's index, 1 where all got the same, 1/n where one got everything.

/// Jain's fairness index of what each got; `None` where there are fewer than two or nobody got anything.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn jain(shares: &[u64]) -> Option<f64> {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    (shares.len() > 1 && squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_fair_and_one_taking_all_is_not() {
        assert_eq!(jain(&[5, 5, 5, 5]), Some(1.0));
        assert_eq!(jain(&[8, 0, 0, 0]), Some(0.25));
        assert_eq!(jain(&[7]), None);
        assert_eq!(jain(&[0, 0]), None);
    }
}
