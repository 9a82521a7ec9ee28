//! The devices of this process: models that share one take turns on it.

use std::sync::{Arc, Mutex, PoisonError};

use hansa_config::schema::{Device as Place, Model, Runner};
use hansa_engine::Device;

/// Devices in use, each started with its first model. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    started: Arc<Mutex<Vec<(Place, Device)>>>,
}

impl Devices {
    /// The device that `model` runs on. A simulated model stands for a machine of its own, and has one of its own.
    pub(super) fn of(&self, model: &Model) -> Device {
        if model.runner == Runner::Sim {
            return Device::start();
        }
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = started.iter().find(|(place, _)| *place == model.device) {
            return device.clone();
        }
        let device = Device::start();
        started.push((model.device, device.clone()));
        device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_started_once() {
        let devices = Devices::default();
        let on = |place| Model {
            device: place,
            ..Model::default()
        };
        for place in [Place::Cpu, Place::Cuda(0), Place::Cpu, Place::Cuda(1)] {
            drop(devices.of(&on(place)));
        }
        let simulated = Model {
            runner: Runner::Sim,
            ..Model::default()
        };
        drop(devices.of(&simulated));
        let started = devices.started.lock().unwrap();
        let places: Vec<Place> = started.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [Place::Cpu, Place::Cuda(0), Place::Cuda(1)]);
    }
}
