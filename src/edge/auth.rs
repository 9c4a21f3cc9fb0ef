//! Who is asking: the seam between an edge that carries HTTP requests and whoever checks credentials.
//!
//! Owns the trait and development mode's answer. Must never know how credentials are kept. Start at [`Authenticator`].

use std::fmt;

use axum::http::{HeaderValue, Request, header, request::Parts};

use crate::{
    frame::AgentId,
    router::{error::FabricError, surface::Principal},
};

/// Proves who sent a request, before its body is read or inflated. Must answer from memory.
pub trait Authenticator: Send + Sync + fmt::Debug + 'static {
    /// The proven party behind a request, or why there is none.
    fn principal(&self, parts: &Parts) -> Result<Principal, FabricError>;
}

/// Development mode: nobody has to prove anything. The node refuses it on any but a loopback address.
#[derive(Clone, Copy, Debug)]
pub struct DevelopmentMode;

impl Authenticator for DevelopmentMode {
    fn principal(&self, _parts: &Parts) -> Result<Principal, FabricError> {
        Ok(Principal::Anyone)
    }
}

/// The proven party behind a bearer token, for protocols that carry no HTTP: as if a request had brought it. Empty: none.
pub fn principal_of_token(authenticator: &dyn Authenticator, token: &str) -> Result<Principal, FabricError> {
    let mut parts = Request::new(()).into_parts().0;
    if !token.is_empty() {
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let value = value.map_err(|_| FabricError::invalid("token", "has characters that no token has"))?;
        parts.headers.insert(header::AUTHORIZATION, value);
    }
    authenticator.principal(&parts)
}

/// The agent that a principal is, where it is one.
pub fn proven_agent(principal: &Principal) -> Option<&AgentId> {
    match principal {
        Principal::Anyone => None,
        Principal::Agent(agent) => Some(agent),
    }
}
