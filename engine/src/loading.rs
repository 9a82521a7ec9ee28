//! Loads a model beside its device's thread where it can, so that those who are served there do not wait for the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crate::api::EngineState;
use crate::device::{Arrival, Device, Resident};
use crate::options::LoadOn;
use crate::runner::RunnerError;
use crate::shared::Shared;

/// Lets a model move in: `make` reads it, `settle` warms it up on the device's thread.
pub(crate) fn start<T: Send + 'static>(
    device: &Device,
    (shared, weight): (Arc<Shared>, u32),
    place: LoadOn,
    (make, settle): (
        impl FnOnce() -> Result<T, RunnerError> + Send + 'static,
        impl FnOnce(T) -> Result<Box<dyn Resident>, RunnerError> + Send + 'static,
    ),
) {
    let device = device.clone();
    let life = Arc::clone(&shared);
    let read = move || {
        let arrival = |settle| Arrival {
            shared: Arc::clone(&shared),
            weight,
            settle,
        };
        match place {
            LoadOn::DeviceThread => {
                device.welcome(arrival(Box::new(move || settle(make()?))));
            }
            LoadOn::OwnThread => match catch_unwind(AssertUnwindSafe(make)) {
                Ok(Ok(made)) => device.welcome(arrival(Box::new(move || settle(made)))),
                Ok(Err(error)) => shared.set_state(EngineState::Failed(error.to_string())),
                Err(_) => {
                    let reason = "loading the model panicked; the log says where".to_owned();
                    shared.set_state(EngineState::Failed(reason));
                }
            },
        }
    };
    let named = thread::Builder::new().name("hansa-load".to_owned());
    if let Err(error) = named.spawn(read) {
        let reason = format!("no thread to load the model: {error}");
        life.set_state(EngineState::Failed(reason));
    }
}
