//! Max-min fair shares: water-filling.

/// What one asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    pub weight: f64,
    /// May be without an end.
    pub wants: f64,
}

/// What each may have of `all`: no less than its fair share by weight, whatever it wants now; and one that wants more
/// has what those leave who want less, divided by weight. If nobody wants more, what is left is divided, too.
///
/// The sum may be more than there is by what some don't want of their fair shares. Should they want it, the next call
/// divides anew.
pub(super) fn fill(all: f64, asks: &[Asks]) -> Vec<f64> {
    let all = all.max(0.0);
    let weights: f64 = asks.iter().map(|asks| asks.weight).sum();
    let fair = |asks: &Asks| all * asks.weight / weights;
    let mut order: Vec<_> = asks.iter().collect();
    let by_weight = |asks: &Asks| asks.wants.max(0.0) / asks.weight;
    order.sort_by(|a, b| by_weight(a).total_cmp(&by_weight(b)));
    let (mut left, mut weights_left) = (all, weights);
    for Asks { weight, wants } in order {
        // How high the water stands for a weight of one, once those who want less have what they want.
        let level = left / weights_left;
        let wants = wants.max(0.0);
        if wants >= level * weight {
            // Of a heavy one that wants little the level alone would be more than there is.
            let filled = |asks: &Asks| fair(asks).max(asks.weight * level).min(all);
            return asks.iter().map(filled).collect();
        }
        left -= wants;
        weights_left -= weight;
    }
    let spare = |asks: &Asks| asks.wants.max(0.0) + left * asks.weight / weights;
    asks.iter().map(|asks| fair(asks).max(spare(asks))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_one_does_not_want_is_for_those_who_do() {
        let asks = |weight, wants| Asks { weight, wants };
        let flood = f64::INFINITY;
        assert_eq!(fill(2.0, &[asks(1.0, 0.5), asks(1.0, flood)])[1], 1.5);
        assert_eq!(fill(2.0, &[asks(1.0, flood), asks(1.0, flood)]), [1.0, 1.0]);
        assert_eq!(fill(3.0, &[asks(1.0, flood), asks(2.0, flood)]), [1.0, 2.0]);
        let three = fill(3.0, &[asks(1.0, 0.5), asks(1.0, flood), asks(1.0, flood)]);
        assert_eq!((three[1], three[2]), (1.25, 1.25));
        assert_eq!(fill(2.0, &[]), [] as [f64; 0]);
        assert_eq!(fill(2.0, &[asks(100.0, 0.0)]), [2.0]);
        assert_eq!(fill(2.0, &[asks(100.0, 0.5), asks(100.0, 0.5)]), [1.0, 1.0]);
    }

    proptest! {
        /// The three things that max-min is: nobody has less than his fair share; all is given out to those who want more;
        /// and nobody who wants more has less (by weight) than another has.
        #[test]
        fn shares_are_max_min(
            all in 0.1f64..64.0,
            asks in prop::collection::vec((1u32..1_000, 0.0f64..8.0, any::<bool>()), 1..60),
        ) {
            let asks: Vec<_> = asks
                .into_iter()
                .map(|(weight, wants, floods)| Asks {
                    weight: weight.into(),
                    wants: if floods { f64::INFINITY } else { wants },
                })
                .collect();
            let grants = fill(all, &asks);
            let weights: f64 = asks.iter().map(|asks| asks.weight).sum();
            let near = 1e-9 * all;
            let mut used = 0.0;
            for (asks, grant) in asks.iter().zip(&grants) {
                prop_assert!(*grant >= all * asks.weight / weights - near);
                prop_assert!(*grant <= all + near, "{grant} of {all}");
                used += asks.wants.min(*grant);
            }
            prop_assert!(used <= all + 1e-6, "{used} of {all}");
            let wanted: f64 = asks.iter().map(|asks| asks.wants).sum();
            prop_assert!(used >= wanted.min(all) - 1e-6, "{used} of {all} used, {wanted} wanted");
        }
    }
}
