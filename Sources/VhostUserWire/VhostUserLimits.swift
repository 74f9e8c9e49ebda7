// The sizes that the protocol fixes, and a maximum for every number that a peer may send, each written once.
// formats/vhost-user/layout.tsv has the same list; the tests hold one against the other.

/// Sizes of vhost-user in bytes, and the most that a peer may ask for.
public enum VhostUserLimits {
    /// Bytes of the header of a message (specification: "Header").
    public static let headerBytes = 12
    /// The longest payload that is read at all. The longest that means anything is a full configuration access, 268
    /// bytes; what is longer than this is not worth memory.
    public static let maxPayloadBytes = 4096
    /// Descriptors that travel with one message: one for each region of a memory table.
    public static let maxDescriptors = 8
    /// Regions of SET_MEM_TABLE.
    public static let maxTableRegions = 8
    /// Bytes of configuration space in one message.
    public static let maxConfigBytes = 256
    /// Guest memory that one bit of the dirty log stands for.
    public static let logPageBytes = 4096
}
