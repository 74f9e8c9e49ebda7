// What a writer answers when bytes need a place: a write of whole clusters, or of subclusters of one, with the place that
// they get and what fills the part that the request does not bring; or what must happen before.

public import DiskTypes

/// The answer to a write that allocates (`QCOW2Writer.begin`).
public enum WriteGrant: Sendable {
    /// Write where it says, then `finish` it.
    case granted(AllocatingWrite)
    /// It can be overwritten in place after all: another write was faster.
    case inPlace
    /// Another write must end first: ask again when one has.
    case busy
    /// The helper thread must do something first (`QCOW2Writer.takePrerequisites`): ask again afterwards.
    case wants
    /// Fetch this part of a table, `supply` it, ask again.
    case needs(TableRead)
    /// The write fails with this errno.
    case failed(Int32)
}

/// Leave to write some whole clusters, or subclusters of one. Until it is finished no other write gets them.
public struct AllocatingWrite: BitwiseCopyable, Sendable {
    /// What the rest of the units must hold, of which the write brings only a part.
    public enum CowFill: UInt8, BitwiseCopyable, Sendable {
        /// It holds it already, or there is none.
        case none
        /// Zeros.
        case zero
        /// What the guest sees there now.
        case copy
    }

    /// Where the units begin in the guest's disk: clusters or subclusters.
    public let guest: GuestOffset
    /// Bytes of all units.
    public let length: UInt64
    /// Where `guest` goes, in the file of the data.
    public let host: HostOffset
    /// What fills the bytes of the units that the write does not bring.
    public let fill: CowFill
    /// The host clusters were free until now.
    let isNew: Bool
    /// All of the cluster is valid afterwards, whatever was before.
    let isWhole: Bool
    /// Guest clusters that the units lie in.
    var clusters: UInt64
}
