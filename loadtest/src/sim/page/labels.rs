//! Where names stand beside the discs of a map, so that they cover each other and the discs as little as can be.

/// Height of a letter on the map, and mean width, in units of the map.
pub(super) const LETTER: (f64, f64) = (9.0, 4.9);
/// Distances from the edge of a disc that are tried, the nearest first.
const DISTANCES: [f64; 4] = [1.5, 9.0, 18.0, 28.0];
/// Directions that are tried, above first: across and down.
const DIRECTIONS: [(f64, f64); 8] = [
    (0.0, -1.0),
    (0.0, 1.0),
    (1.0, 0.0),
    (-1.0, 0.0),
    (0.7, -0.7),
    (-0.7, -0.7),
    (0.7, 0.7),
    (-0.7, 0.7),
];

/// A disc with a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disc {
    /// Its middle.
    pub(super) at: (f64, f64),
    pub(super) radius: f64,
    /// Letters of its name.
    pub(super) letters: usize,
}

/// Where a name stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label {
    /// The middle of the name.
    pub(super) at: (f64, f64),
    /// Whether it is so far from its disc that a line should lead to it.
    pub(super) is_far: bool,
}

/// A rectangle: left, top, right, bottom.
type Area = [f64; 4];

/// A place for every name, one after the other, within a map of this size.
pub(super) fn labels(discs: &[Disc], size: (f64, f64)) -> Vec<Label> {
    let circles: Vec<Area> = discs
        .iter()
        .map(|disc| around(disc.at, disc.radius, disc.radius))
        .collect();
    let mut names: Vec<Area> = Vec::new();
    let mut placed = Vec::new();
    for disc in discs {
        let best = places(disc).min_by(|a, b| {
            let cost = |place: &(Label, Area)| cost(place, &names, &circles, size);
            cost(a).total_cmp(&cost(b))
        });
        if let Some((label, area)) = best {
            names.push(area);
            placed.push(label);
        }
    }
    placed
}

/// All places that are tried, with what they cover.
fn places(disc: &Disc) -> impl Iterator<Item = (Label, Area)> + '_ {
    let half = (disc.letters as f64 * LETTER.1 / 2.0, LETTER.0 / 2.0);
    DISTANCES.iter().flat_map(move |distance| {
        DIRECTIONS.iter().map(move |(across, down)| {
            let away = disc.radius + distance;
            let at = (
                disc.at.0 + across * (away + half.0),
                disc.at.1 + down * (away + half.1),
            );
            let is_far = *distance > DISTANCES[0];
            (Label { at, is_far }, around(at, half.0, half.1))
        })
    })
}

/// What a place costs: other names covered count most, then the edge of the map, discs, and the distance.
fn cost(place: &(Label, Area), names: &[Area], circles: &[Area], size: (f64, f64)) -> f64 {
    let (label, area) = place;
    let covered = |others: &[Area]| others.iter().map(|other| shared(area, other)).sum::<f64>();
    let whole = (area[2] - area[0]) * (area[3] - area[1]);
    let outside = whole - shared(area, &[0.0, 0.0, size.0, size.1]);
    let far = if label.is_far { 8.0 } else { 0.0 };
    10.0 * covered(names) + 10.0 * outside + covered(circles) + far
}

fn around((x, y): (f64, f64), half_width: f64, half_height: f64) -> Area {
    [
        x - half_width,
        y - half_height,
        x + half_width,
        y + half_height,
    ]
}

/// The area that two rectangles share.
fn shared(a: &Area, b: &Area) -> f64 {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    width.max(0.0) * height.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_crowd_do_not_cover_each_other() {
        let disc = |at: usize| Disc {
            at: (
                150.0 + 9.0 * (at % 4) as f64,
                150.0 + 11.0 * (at / 4) as f64,
            ),
            radius: 5.0,
            letters: 8,
        };
        let discs: Vec<Disc> = (0..10).map(disc).collect();
        let labels = labels(&discs, (330.0, 360.0));
        assert_eq!(labels.len(), discs.len());
        let half = (8.0 * LETTER.1 / 2.0, LETTER.0 / 2.0);
        let areas: Vec<Area> = labels
            .iter()
            .map(|label| around(label.at, half.0, half.1))
            .collect();
        for (at, area) in areas.iter().enumerate() {
            let others = areas[..at].iter().map(|other| shared(area, other));
            assert!(others.sum::<f64>() < 1e-9, "{at}: {areas:?}");
        }
    }

    #[test]
    fn a_name_alone_stands_above_its_disc_and_within_the_map() {
        let one = |at| {
            let disc = Disc {
                at,
                radius: 5.0,
                letters: 6,
            };
            labels(&[disc], (330.0, 360.0))[0]
        };
        let label = one((100.0, 100.0));
        assert!(label.at.1 < 95.0 && !label.is_far);
        assert!(
            one((100.0, 2.0)).at.1 > 2.0,
            "below, where there is no room above"
        );
        assert!(one((1.0, 100.0)).at.0 > 10.0);
    }
}
