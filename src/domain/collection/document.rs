//! State-stored aggregates: clients write the whole state or send a merge patch.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::evolution::digest;
use super::{Collection, Derivation, Evolution, Journaled, Keys, singular_name};
use crate::domain::body::{Body, CorruptState};
use crate::domain::command::{Change, CommandContext, Decision, DecodedState, Rejection, Verb};
use crate::domain::json::{self, ValidationError};
use crate::domain::merge_patch;
use crate::domain::schema::{CollectionSchemas, Generators};

/// An aggregate whose stored state is the source of truth.
///
/// ```
/// use duality::schemars::{self, JsonSchema};
///
/// #[derive(serde::Serialize, serde::Deserialize, JsonSchema)]
/// struct Task {
///     title: String,
///     due: Option<String>,
/// }
///
/// impl duality::Document for Task {
///     const NAME: &'static str = "tasks";
/// }
/// ```
pub trait Document: Serialize + DeserializeOwned + JsonSchema + 'static {
    /// The collection's name: its member in the document, and its path. Lower-case letters, digits and hyphens.
    const NAME: &'static str;

    /// The name of one aggregate, in the path of the feed: `person` gives `/person-events`. Without one, the singular of
    /// `NAME` by the common rules of English: `company` for `companies`.
    const SINGULAR: Option<&'static str> = None;

    /// The kind of its keys: numbers, unless this says something else. Where clients choose them, a `PUT` creates an aggregate
    /// that does not exist, and replaces one that does.
    const KEYS: Keys = Keys::Sequence;

    /// The version of the members. Raise it when documents that are stored do not fit the type any more, and let
    /// [`upgrade`](Self::upgrade) convert them: the next start does that before anything is served.
    const VERSION: i64 = 1;

    /// Converts a stored document of the version `from` to this one. Members that the type does not have are left out after
    /// it, so it only has to rename members and to add those that are required. It must give the same for the same document.
    ///
    /// # Errors
    /// Names the member. The service does not start, and nothing is changed.
    fn upgrade(from: i64, document: Value) -> Result<Value, ValidationError> {
        let _ = from;
        Ok(document)
    }

    /// Checks the rules that the types of the members cannot express.
    ///
    /// # Errors
    /// Names the invalid member. The response is a `422`, and nothing is written.
    fn validate(&self) -> Result<(), ValidationError> {
        Ok(())
    }
}

/// The erased form of a [`Document`].
pub(super) struct DocumentAdapter<T> {
    members: Option<&'static [&'static str]>,
    typed: PhantomData<fn() -> T>,
}

impl<T: Document> DocumentAdapter<T> {
    pub(super) fn new() -> Self {
        Self { members: json::member_names::<T>(), typed: PhantomData }
    }

    fn replace(body: Body) -> Change {
        if T::KEYS == Keys::Sequence { Change::Replace(body) } else { Change::Put(body) }
    }

    fn check(&self, json: Value) -> Result<Body, ValidationError> {
        let document: T = json::decode(json)?;
        document.validate()?;
        Body::encode(&document)
    }
}

impl<T: Document> Collection for DocumentAdapter<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn singular(&self) -> Cow<'static, str> {
        singular_name(T::SINGULAR, T::NAME)
    }

    fn keys(&self) -> Keys {
        T::KEYS
    }

    fn read(&self, verb: Verb<'_>, text: &[u8]) -> Option<Change> {
        let as_change = match verb {
            Verb::Create => Change::Create,
            Verb::Replace => Self::replace,
            Verb::Patch | Verb::Command(_) => return None,
        };
        let document: T = json::read_plain(text, self.members)?;
        document.validate().ok()?;
        Body::encode(&document).ok().map(as_change)
    }

    fn change(&self, verb: Verb<'_>, json: Value) -> Result<Change, ValidationError> {
        json::expect_object(&json)?;
        json::check_names(self.members, &json)?;
        Ok(match verb {
            Verb::Create => Change::Create(self.check(json)?),
            Verb::Replace => Self::replace(self.check(json)?),
            Verb::Patch => Change::Patch(json),
            Verb::Command(name) => {
                return Err(ValidationError::new(
                    "",
                    format!("unknown command {name:?}; {} have no commands", T::NAME),
                ));
            }
        })
    }

    fn decide(
        &self,
        _: CommandContext<'_>,
        before: Option<&Body>,
        _: &mut Option<DecodedState>,
        change: Change,
    ) -> Result<Decision, Rejection> {
        let after = match (change, before) {
            (Change::Create(body) | Change::Put(body), _) | (Change::Replace(body), Some(_)) => Some(body),
            (Change::Patch(patch), Some(before)) => {
                let mut json = before.value()?;
                merge_patch::apply(&mut json, patch);
                Some(self.check(json).map_err(Rejection::Invalid)?)
            }
            (Change::Delete, Some(_)) => None,
            (Change::Handle { .. } | Change::Erase, _) | (_, None) => return Err(Rejection::NotFound),
        };
        Ok(Decision { after, events: Vec::new() })
    }

    fn check(&self, body: &Body) -> Result<(), CorruptState> {
        body.decode::<T>().map(|_| ())
    }

    fn schemas(&self, generators: &mut Generators) -> CollectionSchemas {
        CollectionSchemas {
            state: generators.state::<T>(),
            created: Some(generators.body::<T>()),
            commands: Vec::new(),
            events: Vec::new(),
            rules: Vec::new(),
        }
    }

    fn derivation(&self) -> Option<&dyn Derivation> {
        None
    }

    fn journaled(&self) -> Option<&dyn Journaled> {
        None
    }

    fn evolution(&self) -> Option<&dyn Evolution> {
        Some(self)
    }
}

impl<T: Document> Evolution for DocumentAdapter<T> {
    fn version(&self) -> i64 {
        T::VERSION
    }

    fn shape(&self) -> String {
        digest(&schemars::schema_for!(T).to_value().to_string())
    }

    fn fit(&self, body: &Body) -> Result<(), ValidationError> {
        json::decode::<T>(stored(body)?).map(|_| ())
    }

    fn upgrade(&self, from: i64, body: &Body) -> Result<Body, ValidationError> {
        let document = stored(body)?;
        let mut upgraded = catch_unwind(AssertUnwindSafe(|| T::upgrade(from, document)))
            .unwrap_or_else(|_| Err(ValidationError::new("", "`upgrade` panicked; the log has the panic")))?;
        if let (Some(members), Value::Object(document)) = (self.members, &mut upgraded) {
            document.retain(|name, _| members.contains(&name.as_str()));
        }
        let document: T = json::decode_known(upgraded)?;
        document.validate()?;
        Body::encode(&document)
    }
}

fn stored(body: &Body) -> Result<Value, ValidationError> {
    body.value().map_err(|error| ValidationError::new("", error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::key::Key;
    use crate::domain::metadata::Metadata;
    use crate::domain::revision::Version;

    #[derive(Serialize, serde::Deserialize, JsonSchema)]
    struct Task {
        title: String,
        due: Option<String>,
    }

    impl Document for Task {
        const NAME: &'static str = "tasks";

        fn validate(&self) -> Result<(), ValidationError> {
            if self.title.is_empty() { Err(ValidationError::new("title", "must not be empty")) } else { Ok(()) }
        }
    }

    fn decide(tasks: &DocumentAdapter<Task>, before: Option<&Body>, change: Change) -> Result<Option<Body>, Rejection> {
        let key = Key::of_number(1);
        let context = CommandContext {
            key: &key,
            version: Version::ZERO,
            now: Timestamp::from_milliseconds(0),
            metadata: &Metadata::default(),
            new_id: &|| Key::of_number(1),
        };
        Ok(tasks.decide(context, before, &mut None, change)?.after)
    }

    fn patched(before: &Value, patch: Value) -> Result<String, Rejection> {
        let tasks = DocumentAdapter::<Task>::new();
        let before = Body::from_db(before.to_string());
        let change = tasks.change(Verb::Patch, patch).map_err(Rejection::Invalid)?;
        Ok(decide(&tasks, Some(&before), change)?.unwrap().as_str().to_owned())
    }

    fn rejected_member(outcome: Result<String, Rejection>) -> String {
        match outcome {
            Err(Rejection::Invalid(invalid)) => invalid.member,
            other => panic!("not rejected: {other:?}"),
        }
    }

    #[test]
    fn a_patch_is_merged_and_the_result_validated() {
        assert_eq!(patched(&json!({"title":"a","due":"x"}), json!({"due":null})).unwrap(), r#"{"title":"a"}"#);
        assert_eq!(rejected_member(patched(&json!({"title":"a"}), json!({"title":""}))), "title");
    }

    #[test]
    fn an_unknown_member_is_rejected_even_if_it_is_null() {
        assert_eq!(rejected_member(patched(&json!({"title":"a"}), json!({"dew":null}))), "dew");
    }

    #[test]
    fn only_an_object_is_accepted() {
        for json in [json!(null), json!([]), json!("x"), json!(1)] {
            for verb in [Verb::Create, Verb::Replace, Verb::Patch] {
                assert!(DocumentAdapter::<Task>::new().change(verb, json.clone()).is_err());
            }
        }
    }

    #[test]
    fn a_change_does_not_create_a_missing_aggregate() {
        let tasks = DocumentAdapter::<Task>::new();
        let body = Body::from_db(r#"{"title":"a"}"#.to_owned());
        for change in [Change::Replace(body), Change::Patch(json!({})), Change::Delete] {
            assert!(matches!(decide(&tasks, None, change), Err(Rejection::NotFound)));
        }
    }
}
