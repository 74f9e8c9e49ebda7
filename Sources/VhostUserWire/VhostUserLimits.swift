// Every number that a peer may name has a maximum with a name, and the sizes that the protocol fixes are written
// once. One to one with formats/vhost-user/layout.tsv, which the tests hold them against.

/// Sizes of vhost-user, and how much of it anybody may ask for.
public enum VhostUserLimits {
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
