//! The names of things: nodes, meshes, units, links. Parsed at the edge, compared everywhere else.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// The longest DNS label, in bytes (RFC 1035, section 2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;
/// The longest suffix of a leaf instance, in bytes.
pub const MAX_INSTANCE_BYTES: usize = 16;

/// The longest node id, a leaf's, in bytes.
const MAX_ID_BYTES: usize = MAX_LABEL_BYTES + 1 + MAX_INSTANCE_BYTES;

/// A node's name: a DNS label of letters, digits, `-` and `_`, without a hyphen at the ends.
///
/// Kept as written, compared without regard to case, as DNS names are. A leaf (a command that joins for its own
/// duration) carries an instance after a `+`, as in `laptop+3f2a9c01`, so that several can join with one identity;
/// its certificate proves the part before the `+`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Parses a node id, with or without a leaf instance.
    pub fn parse(text: &str) -> Result<Self, NodeIdError> {
        let (base, instance) = match text.split_once('+') {
            Some((base, instance)) => (base, Some(instance)),
            None => (text, None),
        };
        check_label(base)?;
        let good = |i: &str| {
            !i.is_empty() && i.len() <= MAX_INSTANCE_BYTES && i.bytes().all(|b| b.is_ascii_hexdigit())
        };
        if instance.is_some_and(|i| !good(i)) {
            return Err(NodeIdError::BadInstance(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The leaf instance `instance` of this node.
    pub fn leaf(&self, instance: u64) -> Self {
        Self(format!("{}+{instance:016x}", self.base_str()).into())
    }

    /// Whether this is the id of a leaf instance.
    pub fn is_leaf(&self) -> bool {
        self.0.contains('+')
    }

    /// The id that the certificate proves: without a leaf instance.
    pub fn base(&self) -> Self {
        if self.is_leaf() {
            Self(self.base_str().into())
        } else {
            self.clone()
        }
    }

    fn base_str(&self) -> &str {
        self.0.split_once('+').map_or(&*self.0, |(base, _)| base)
    }

    /// The id as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The short form that addresses this node in forward frames.
    pub fn hash(&self) -> NodeHash {
        let mut hasher = blake3::Hasher::new_derive_key("workmesh 1 node id");
        hasher.update(self.0.to_ascii_lowercase().as_bytes());
        let mut short = [0; 8];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        NodeHash(u64::from_be_bytes(short))
    }
}

fn check_label(text: &str) -> Result<(), NodeIdError> {
    if text.is_empty() {
        return Err(NodeIdError::Empty);
    }
    if text.len() > MAX_LABEL_BYTES {
        return Err(NodeIdError::TooLong(text.len()));
    }
    if let Some(bad) = text
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_'))
    {
        return Err(NodeIdError::BadCharacter {
            name: text.to_owned(),
            bad,
        });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NodeIdError::Hyphen(text.to_owned()));
    }
    Ok(())
}

fn fold(byte: u8) -> u8 {
    byte.to_ascii_lowercase()
}

impl PartialEq for NodeId {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for NodeId {}

impl Hash for NodeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut folded = [0xff; MAX_ID_BYTES + 1];
        for (folded, byte) in folded.iter_mut().zip(self.0.bytes()) {
            *folded = fold(byte);
        }
        // The byte that follows is in no id.
        state.write(&folded[..self.0.len().min(MAX_ID_BYTES) + 1]);
    }
}

impl Ord for NodeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.bytes().map(fold).cmp(other.0.bytes().map(fold))
    }
}

impl PartialOrd for NodeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for NodeId {
    type Error = NodeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

/// Without a copy: most records and frames name nodes.
impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Why a text is no node id or mesh name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// Nothing at all.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than [`MAX_LABEL_BYTES`].
    #[error("a name has at most {MAX_LABEL_BYTES} characters, this one has {0}")]
    TooLong(usize),
    /// A character that a DNS label can't hold.
    #[error("name {name:?} contains {bad:?}; use letters, digits, '-' and '_'")]
    BadCharacter {
        /// The whole text.
        name: String,
        /// The first character that does not fit.
        bad: char,
    },
    /// A hyphen at the start or the end.
    #[error("name {0:?} must not begin or end with a hyphen")]
    Hyphen(String),
    /// What stands after the `+` of a leaf is not 1 to 16 hexadecimal digits.
    #[error("leaf id {0:?} needs 1 to {MAX_INSTANCE_BYTES} hexadecimal digits after the '+'")]
    BadInstance(String),
}

/// A mesh's name: a DNS label, with the same rules as a [`NodeId`] without instance.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MeshName(Box<str>);

impl MeshName {
    /// Parses a mesh name; upper case becomes lower case.
    pub fn parse(text: &str) -> Result<Self, NodeIdError> {
        check_label(text)?;
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The DNS name that each member's certificate carries: `<mesh>.mesh.internal`.
    pub fn dns_name(&self) -> String {
        format!("{}.mesh.internal", self.0)
    }

    /// The DNS name that only `node`'s certificate carries: `<id>.<mesh>.mesh.internal`.
    pub fn dns_name_of(&self, node: &NodeId) -> String {
        format!("{}.{}.mesh.internal", node.base_str(), self.0)
    }
}

impl fmt::Display for MeshName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for MeshName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MeshName {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for MeshName {
    type Error = NodeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<MeshName> for String {
    fn from(name: MeshName) -> Self {
        name.0.into()
    }
}

/// The first 64 bits of the keyed BLAKE3 of a node id in lower case: how forward frames name nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeHash(pub u64);

/// The upper half of every virtual address: a unique local prefix (RFC 4193) that no interface carries.
const VIRTUAL_PREFIX: u64 = 0xfd77_6d65_7368_0000;

impl NodeHash {
    /// The virtual address under which the endpoint dials this node.
    pub fn virtual_address(self) -> Ipv6Addr {
        Ipv6Addr::from((u128::from(VIRTUAL_PREFIX) << 64) | u128::from(self.0))
    }

    /// The node that a virtual address stands for; `None` for any other address.
    pub fn from_virtual_address(address: Ipv6Addr) -> Option<Self> {
        let bits = u128::from(address);
        ((bits >> 64) as u64 == VIRTUAL_PREFIX).then_some(Self(bits as u64))
    }
}

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which life of a node: milliseconds since 1970 at its start, made to rise at each start.
/// Of two live nodes with one id, the one with the greater incarnation is the younger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// A unit's id: a UUIDv7 chosen by its submitter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitId(pub Uuid);

impl Ord for UnitId {
    /// By their bytes; as numbers, which takes no call for each key on the way through a tree.
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_u128().cmp(&other.0.as_u128())
    }
}

impl PartialOrd for UnitId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl UnitId {
    /// Parses a UUID of any version.
    pub fn parse(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One link of this node, for as long as it is up; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What it costs to cross a link; routes minimise the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cost(pub u16);

impl Cost {
    /// The cost of a link where none is configured.
    pub const DEFAULT: Self = Self(10);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_keep_their_case_and_compare_without_it() {
        let (a, b) = (NodeId::parse("nodeB").unwrap(), NodeId::parse("NODEb").unwrap());
        assert_eq!(a, b);
        assert_eq!(a.hash(), b.hash());
        assert_eq!(a.cmp(&b), Ordering::Equal);
        assert_eq!(a.to_string(), "nodeB");
    }

    #[test]
    fn node_id_is_a_dns_label() {
        assert!(NodeId::parse(&"a".repeat(63)).is_ok());
        assert_eq!(NodeId::parse(&"a".repeat(64)), Err(NodeIdError::TooLong(64)));
        assert_eq!(NodeId::parse(""), Err(NodeIdError::Empty));
        assert!(matches!(
            NodeId::parse("a.b"),
            Err(NodeIdError::BadCharacter { bad: '.', .. })
        ));
        assert!(matches!(NodeId::parse("-a"), Err(NodeIdError::Hyphen(_))));
        assert!(matches!(
            NodeId::parse("a\n"),
            Err(NodeIdError::BadCharacter { .. })
        ));
    }

    #[test]
    fn leaf_ids_have_a_base_that_the_certificate_proves() {
        let base = NodeId::parse("laptop").unwrap();
        let leaf = base.leaf(0x3f2a);
        assert_eq!(NodeId::parse(leaf.as_str()).unwrap(), leaf);
        assert!(leaf.is_leaf() && !base.is_leaf());
        assert_eq!(leaf.base(), base);
        assert_ne!(leaf.hash(), base.hash());
        assert!(NodeId::parse("laptop+").is_err());
        assert!(NodeId::parse("laptop+xyz").is_err());
        assert!(NodeId::parse("laptop+00000000000000000").is_err());
    }

    #[test]
    fn units_are_in_the_order_of_their_bytes() {
        let id = |bytes: [u8; 16]| UnitId(Uuid::from_bytes(bytes));
        let ids: Vec<_> = (0..16)
            .flat_map(|at| {
                [1, 0x7f, 0x80, 0xff].map(|byte| std::array::from_fn(|i| if i == at { byte } else { 9 }))
            })
            .collect();
        for (a, b) in ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))) {
            assert_eq!(id(a).cmp(&id(b)), a.cmp(&b));
        }
    }

    #[test]
    fn virtual_addresses_hold_the_hash() {
        let hash = NodeId::parse("a").unwrap().hash();
        assert_eq!(NodeHash::from_virtual_address(hash.virtual_address()), Some(hash));
        assert_eq!(NodeHash::from_virtual_address(Ipv6Addr::LOCALHOST), None);
    }
}
