//! Models come and go; who reads sees one table or the other.

use futures::future::BoxFuture;

use super::*;
use crate::upstream::{EventStream, GenerateRequest, UpstreamError, UpstreamErrorKind};

struct Stands(Readiness);

impl Upstream for Stands {
    fn generate(
        &self,
        _: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        Box::pin(async { Err(UpstreamErrorKind::NotReady.into()) })
    }

    fn count_tokens(&self, _: Arc<GenerateRequest>) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        Box::pin(async { Err(UpstreamErrorKind::NotReady.into()) })
    }

    fn cancel(&self, _: &str) {}

    fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            readiness: self.0.clone(),
            ..UpstreamStatus::default()
        }
    }
}

fn model(id: &str, readiness: Readiness) -> (ModelInfo, Arc<dyn Upstream>) {
    let info = ModelInfo {
        id: id.into(),
        created_s: 0,
        owned_by: "hansa",
    };
    (info, Arc::new(Stands(readiness)))
}

fn add(models: &Models, id: &str, readiness: Readiness) -> Result<(), AddError> {
    let (info, upstream) = model(id, readiness);
    models.add(info, upstream)
}

#[test]
fn a_model_is_found_from_its_coming_to_its_going() {
    let models = Models::new(vec![model("a", Readiness::Ready)]);
    add(&models, "b", Readiness::Ready).unwrap();
    assert_eq!(add(&models, "b", Readiness::Ready), Err(AddError::Taken));
    assert_eq!(add(&models, "a", Readiness::Ready), Err(AddError::Taken));
    let kept = models.get("b").unwrap();
    assert!(models.remove("b").is_some());
    assert!(models.get("b").is_none() && models.remove("b").is_none());
    assert_eq!(
        kept.status().readiness,
        Readiness::Ready,
        "who has it keeps it"
    );
    add(&models, "b", Readiness::Loading).unwrap();
    let ids: Vec<_> = models.list().into_iter().map(|info| info.id).collect();
    assert_eq!(ids.iter().map(|id| &**id).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_model_that_is_added_does_not_decide_whether_the_server_is_ready() {
    let models = Models::new(vec![model("a", Readiness::Ready)]);
    add(&models, "b", Readiness::Failed("no such file".to_owned())).unwrap();
    assert!(models.all_ready());
    let models = Models::new(vec![
        model("a", Readiness::Loading),
        model("b", Readiness::Stalled),
    ]);
    assert!(!models.all_ready());
    assert_eq!(models.gravest(), Some(Readiness::Stalled));
    models.remove("a");
    models.remove("b");
    assert!(!models.all_ready(), "there is nothing to serve");
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let models = Models::default();
    for index in 0..MODELS_MAX {
        add(&models, &index.to_string(), Readiness::Ready).unwrap();
    }
    assert_eq!(add(&models, "one", Readiness::Ready), Err(AddError::Full));
}
