//! One operation of the document, put together in the order in which one reads it.

use heck::ToLowerCamelCase as _;
use serde_json::{Map, Value, json};

use super::components::Components;
use super::parameters;
use super::problems::Problems;

/// The texts of an operation.
pub(super) struct About<'a> {
    /// Unique in the document, in words of any case.
    pub(super) id: &'a str,
    pub(super) tag: &'a str,
    pub(super) summary: &'a str,
    pub(super) description: &'a str,
}

/// An operation.
pub(super) struct Operation {
    json: Map<String, Value>,
    parameters: Vec<Value>,
    responses: Map<String, Value>,
}

impl Operation {
    pub(super) fn new(about: &About<'_>) -> Self {
        let mut json = Map::new();
        json.insert("operationId".to_owned(), about.id.to_lower_camel_case().into());
        json.insert("tags".to_owned(), json!([about.tag]));
        json.insert("summary".to_owned(), about.summary.into());
        if !about.description.is_empty() {
            json.insert("description".to_owned(), about.description.into());
        }
        // Every request may have one.
        let parameters = vec![parameters::shared("X-Request-Id-header")];
        Self { json, parameters, responses: Map::new() }
    }

    pub(super) fn parameter(mut self, parameter: Value) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// Parameters of `components`.
    pub(super) fn shared(mut self, names: &[&str]) -> Self {
        self.parameters.extend(names.iter().map(|name| parameters::shared(name)));
        self
    }

    /// The request body, in these media types.
    pub(super) fn body(mut self, types: &[&str], schema: &Value, required: Required) -> Self {
        let content: Map<_, _> =
            types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": schema}))).collect();
        let is_required = required == Required::Yes;
        self.json.insert("requestBody".to_owned(), json!({"required": is_required, "content": content}));
        self
    }

    /// It takes a ticket in the place of a token.
    pub(super) fn with_ticket(mut self) -> Self {
        self.json.insert("security".to_owned(), json!([{}, {"token": []}, {"ticket": []}]));
        self
    }

    pub(super) fn response(mut self, response: Success) -> Self {
        self.responses.insert(response.status.to_string(), response.into_json());
        self
    }

    pub(super) fn problems(mut self, problems: Problems, components: &mut Components) -> Self {
        let responses = problems.responses(components).into_iter();
        self.responses.extend(responses.map(|(status, response)| (status.to_string(), response)));
        self
    }

    pub(super) fn into_json(mut self) -> Value {
        self.json.insert("parameters".to_owned(), self.parameters.into());
        self.json.insert("responses".to_owned(), self.responses.into());
        self.json.into()
    }
}

/// The headers of what has an entity tag.
pub(super) const TAGGED: [&str; 3] = ["X-Revision", "X-Epoch", "ETag"];

/// Whether a request must have a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Required {
    Yes,
    No,
}

/// A response that is not an error.
pub(super) struct Success {
    status: u16,
    description: String,
    headers: Vec<&'static str>,
    content: Map<String, Value>,
}

impl Success {
    pub(super) fn new(status: u16, description: impl Into<String>) -> Self {
        // Every response has one.
        let headers = vec!["X-Request-Id"];
        Self { status, description: description.into(), headers, content: Map::new() }
    }

    /// With headers of `components`.
    pub(super) fn headers(mut self, names: &[&'static str]) -> Self {
        self.headers.extend(names);
        self
    }

    /// With a body of this media type.
    pub(super) fn content(mut self, media_type: &str, schema: impl Into<Value>) -> Self {
        self.content.insert(media_type.to_owned(), json!({"schema": schema.into()}));
        self
    }

    /// With a body of this media type, and an example of it.
    pub(super) fn example(mut self, media_type: &str, schema: &Value, example: &str) -> Self {
        self.content.insert(media_type.to_owned(), json!({"schema": schema, "example": example}));
        self
    }

    fn into_json(self) -> Value {
        let mut json = json!({"description": self.description});
        let header = |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
        json["headers"] = self.headers.iter().map(header).collect::<Map<_, _>>().into();
        if !self.content.is_empty() {
            json["content"] = self.content.into();
        }
        json
    }
}

/// The response to a conditional read of a state that has not changed.
pub(super) fn not_modified() -> Success {
    Success::new(304, "The state is still the one that `If-None-Match` names.").headers(&TAGGED)
}
