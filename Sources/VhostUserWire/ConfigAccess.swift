// The configuration space goes through messages, a range at a time, with a length inside the payload that need not
// agree with the message's.

/// GET_CONFIG (the bytes are room to fill) and SET_CONFIG.
public struct ConfigAccess: WirePayload {
    public static let headerBytes = 12
    public enum Field {
        public static let offset = 0
        public static let size = 4
        public static let flags = 8
        public static let data = 12
    }
    /// Who writes, and why: the guest's driver, or the target of a live migration, who may write any field.
    public enum Purpose {
        public static let driver: UInt32 = 0
        public static let migration: UInt32 = 1
    }

    public let offset: UInt32
    public let flags: UInt32
    public let data: [UInt8]

    public init(offset: UInt32, flags: UInt32 = Purpose.driver, data: [UInt8]) {
        self.offset = offset
        self.flags = flags
        self.data = data
    }

    /// A decoded access has as many bytes as it says, at most 256, and its end is a 32-bit number. It may still lie
    /// outside the configuration space that a device has.
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

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: offset)
        bytes.append(native: UInt32(truncatingIfNeeded: data.count))
        bytes.append(native: flags)
        return bytes + data
    }
}
