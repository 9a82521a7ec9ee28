//! Where things stand on the globe, and how long light and routers take between them. Modelled, not measured: a scenario
//! may say better.

use crate::clock::Nanos;

/// Mean radius of the Earth in kilometres (IUGG).
const EARTH_KM: f64 = 6371.0088;
/// Kilometres that light goes in a fibre in a millisecond.
const FIBRE_KM_PER_MS: f64 = 200.0;
/// How much longer cables are than the great circle.
const DETOUR: f64 = 1.5;
/// Milliseconds that equipment at both ends adds to a round trip, where a scenario does not say otherwise.
pub const EQUIPMENT_MS: f64 = 2.0;

/// A place on the globe, in degrees; north and east are positive.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Place {
    /// Latitude, -90 to 90.
    pub lat: f64,
    /// Longitude, -180 to 180.
    pub lon: f64,
}

impl Place {
    /// Kilometres along the great circle (haversine formula).
    #[must_use]
    pub fn distance_km(self, other: Self) -> f64 {
        let (a, b) = (self.lat.to_radians(), other.lat.to_radians());
        let half_lat = (b - a) / 2.0;
        let half_lon = (other.lon - self.lon).to_radians() / 2.0;
        let h = half_lat.sin().powi(2) + a.cos() * b.cos() * half_lon.sin().powi(2);
        2.0 * EARTH_KM * h.sqrt().min(1.0).asin()
    }

    /// The modelled round trip: `2 x km x 1.5 / (200 km/ms) + equipment`.
    #[must_use]
    pub fn round_trip(self, other: Self, equipment_ms: f64) -> Nanos {
        let ms = 2.0 * self.distance_km(other) * DETOUR / FIBRE_KM_PER_MS + equipment_ms;
        (ms * 1e6).round() as Nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUELICH: Place = Place {
        lat: 50.91,
        lon: 6.41,
    };
    const KAJAANI: Place = Place {
        lat: 64.23,
        lon: 27.73,
    };

    #[test]
    fn distances_and_round_trips_are_those_of_the_map() {
        let km = JUELICH.distance_km(KAJAANI);
        assert!((km - 1_933.0).abs() < 5.0, "{km}");
        let ms = JUELICH.round_trip(KAJAANI, EQUIPMENT_MS) as f64 / 1e6;
        assert!((ms - 31.0).abs() < 0.2, "{ms}");
        assert_eq!(JUELICH.round_trip(JUELICH, EQUIPMENT_MS), 2_000_000);
        assert_eq!(
            JUELICH.round_trip(KAJAANI, 0.0),
            KAJAANI.round_trip(JUELICH, 0.0)
        );
    }
}
