//! Which of many shapes no other one beats.

/// The places of those points (cost, worth) that no other beats, by rising cost: of a point, none costs as little or less and is
/// worth as much or more, its equals left aside. Of equal points the first.
pub(super) fn frontier(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> =
        (0..points.len()).filter(|i| !points[*i].0.is_nan() && !points[*i].1.is_nan()).collect();
    order.sort_by(|a, b| points[*a].0.total_cmp(&points[*b].0).then(points[*b].1.total_cmp(&points[*a].1)));
    let mut best = f64::NEG_INFINITY;
    order.retain(|i| {
        let better = points[*i].1 > best;
        best = best.max(points[*i].1);
        better
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pareto_frontier_is_what_none_beats() {
        assert!(frontier(&[]).is_empty());
        assert_eq!(frontier(&[(1.0, 1.0)]), [0]);
        // 1 is beaten by 0, 3 costs more for less; 4 equals 2.
        let points = [(1.0, 5.0), (2.0, 5.0), (3.0, 9.0), (4.0, 8.0), (3.0, 9.0), (0.5, 1.0)];
        assert_eq!(frontier(&points), [5, 0, 2]);
        assert_eq!(frontier(&[(f64::NAN, 3.0), (2.0, 1.0)]), [1]);
    }

    #[test]
    fn pareto_frontier_equals_asking_every_pair() {
        let point = |i: u64| ((i * 7919 % 97) as f64, (i * 104_729 % 89) as f64);
        let points: Vec<_> = (0..200).map(point).collect();
        let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 >= b.1 && a != b;
        let mut all: Vec<_> = frontier(&points).into_iter().map(|i| points[i]).collect();
        let mut expected: Vec<_> = points.iter().copied().filter(|p| !points.iter().any(|q| beats(*q, *p))).collect();
        expected.sort_by(|a, b| a.0.total_cmp(&b.0));
        expected.dedup();
        all.dedup();
        assert_eq!(all, expected);
    }
}
