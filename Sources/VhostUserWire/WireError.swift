// What can be wrong with a message of the other side. Decoders throw it and never trap; the connection's owner answers
// with a failure or closes.

/// A message that breaks the protocol.
public enum WireError: Error, Equatable, Sendable {
    /// The bytes end inside the header; the number of those that came.
    case headerCutOff(bytes: Int)
    /// The header has a version other than 1.
    case wrongVersion(UInt32)
    /// The header's payload is longer than `VhostUserLimits.maxPayloadBytes`.
    case payloadTooLong(bytes: UInt32)
    /// The payload has another length than this structure.
    case wrongSize(Structure, bytes: Int)
    /// A memory table has more than `VhostUserLimits.maxTableRegions` regions.
    case tooManyRegions(UInt32)
    /// A region without bytes, or one whose end is no 64-bit number.
    case regionOverflows(guestAddress: UInt64)
    /// An access to more than `VhostUserLimits.maxConfigBytes` bytes, or one whose end is no 32-bit number.
    case configOutOfRange(offset: UInt32, bytes: UInt32)
    /// An area of a shared file whose end is no 64-bit number.
    case areaOverflows(Structure)

    /// The structure that the bytes were decoded as; the raw value is its name in messages.
    public enum Structure: String, Sendable {
        /// `WireNumber`.
        case number = "number"
        /// `VringState`.
        case vringState = "vring state"
        /// `VringAddress`.
        case vringAddress = "vring address"
        /// `MemoryTable`.
        case memoryTable = "memory table"
        /// `SingleRegion`.
        case memoryRegion = "memory region"
        /// `ConfigAccess`.
        case config = "configuration access"
        /// `InflightDescription`.
        case inflight = "in-flight description"
        /// `LogDescription`.
        case log = "log description"
    }
}

extension WireError: CustomStringConvertible {
    /// One sentence, without an end stop, for a log or a message.
    public var description: String {
        switch self {
        case .headerCutOff(let bytes): "a message ends after \(bytes) bytes of its header"
        case .wrongVersion(let version): "a message has version \(version), not \(MessageHeader.version)"
        case .payloadTooLong(let bytes):
            "a message of \(bytes) bytes is longer than \(VhostUserLimits.maxPayloadBytes)"
        case .wrongSize(let what, let bytes): "a \(what.rawValue) cannot have \(bytes) bytes"
        case .tooManyRegions(let count):
            "a memory table of \(count) regions is longer than \(VhostUserLimits.maxTableRegions)"
        case .regionOverflows(let at): "the memory region at 0x\(String(at, radix: 16)) is empty or overflows"
        case .configOutOfRange(let offset, let bytes):
            "the configuration space has no \(bytes) bytes at \(offset)"
        case .areaOverflows(let what): "the area of an \(what.rawValue) overflows"
        }
    }
}
