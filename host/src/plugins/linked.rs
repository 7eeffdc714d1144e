//! Linked items behind the boundary that loaded ones have.
//!
//! A model goes through the wire form on its way in and out. It costs a millisecond and buys that a linked and a loaded
//! plugin cannot differ: nothing crosses here that could not cross there, and both are numbered alike.

use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, Fit, GraphRewrite, PluginError, PoolingHead, Request};
use qeff_plugin_api::{TensorIndex, wire};

pub(super) struct Linked<T: ?Sized + 'static>(pub(super) &'static T);

fn cross(model: &Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
    Ok(wire::decode(&wire::encode(model), tensors)?)
}

impl Architecture for Linked<dyn Architecture> {
    fn names(&self) -> Vec<&str> {
        self.0.names()
    }

    fn recognise(&self, config: &Config) -> Option<Fit> {
        // A copy: what one plugin looks at to recognise a model is not read for the one that describes it.
        self.0.recognise(&Config::parse(&config.to_text()).ok()?)
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        cross(&self.0.describe(request)?, &request.tensors)
    }
}

impl PoolingHead for Linked<dyn PoolingHead> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn append(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        cross(&self.0.append(cross(&model, tensors)?, tensors)?, tensors)
    }
}

impl GraphRewrite for Linked<dyn GraphRewrite> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn rewrite(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        cross(&self.0.rewrite(cross(&model, tensors)?, tensors)?, tensors)
    }
}
