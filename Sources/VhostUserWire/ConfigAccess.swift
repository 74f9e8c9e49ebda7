// The payload by which a front-end reads and writes a device's configuration space, a range at a time. The length in
// the payload need not agree with the message's, so both are compared before a byte is used.

/// Payload of GET_CONFIG, where the bytes are room for the answer, and of SET_CONFIG (specification: "Virtio device
/// config space").
public struct ConfigAccess: WirePayload {
    /// Bytes before the data.
    public static let headerBytes = 12
    /// Offsets in the payload, in bytes.
    public enum Field {
        /// Where the range begins in the configuration space, a u32.
        public static let offset = 0
        /// Bytes of the range, a u32.
        public static let size = 4
        /// What the access is for, a u32; see `Purpose`.
        public static let flags = 8
        /// The range's bytes.
        public static let data = 12
    }
    /// Values of `flags`: what a SET_CONFIG is for.
    public enum Purpose {
        /// A write of the guest's driver, to fields that it may write.
        public static let driver: UInt32 = 0
        /// A write by the destination of a live migration, to any field.
        public static let migration: UInt32 = 1
    }

    /// Where the range begins in the configuration space, in bytes.
    public let offset: UInt32
    /// A value of `Purpose`, or any other number that the peer sent.
    public let flags: UInt32
    /// The range's bytes; of a question, room for as many. At most 256 in a decoded access.
    public let data: [UInt8]

    /// An access to `data.count` bytes at `offset`; the caller keeps to `VhostUserLimits.maxConfigBytes`.
    public init(offset: UInt32, flags: UInt32 = Purpose.driver, data: [UInt8]) {
        self.offset = offset
        self.flags = flags
        self.data = data
    }

    /// A decoded access has as many bytes as it says, at most 256, and its end is a 32-bit number. It may still lie
    /// outside the configuration space that a device has. Throws `.configOutOfRange` for a range that is longer or
    /// overflows, and `.wrongSize` for a payload of another length than the range's.
    public init(decoding payload: [UInt8]) throws(WireError) {
        guard let offset = payload.native(UInt32.self, at: Field.offset),
            let size = payload.native(UInt32.self, at: Field.size),
            let flags = payload.native(UInt32.self, at: Field.flags)
        else { throw .wrongSize(.config, bytes: payload.count) }
        guard size <= UInt32(VhostUserLimits.maxConfigBytes), !offset.addingReportingOverflow(size).overflow else {
            throw .configOutOfRange(offset: offset, bytes: size)
        }
        guard payload.count == Self.headerBytes + Int(size) else {
            throw .wrongSize(.config, bytes: payload.count)
        }
        self.init(offset: offset, flags: flags, data: Array(payload[Field.data...]))
    }

    /// 12 bytes, then the data.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: offset)
        bytes.append(native: UInt32(truncatingIfNeeded: data.count))
        bytes.append(native: flags)
        return bytes + data
    }
}
