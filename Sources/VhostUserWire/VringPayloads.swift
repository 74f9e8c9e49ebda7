// What a front-end says about one ring: a number, its addresses, its event descriptors.

/// An index and a number: SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE.
@frozen public struct VringState: WirePayload, BitwiseCopyable {
    public static let bytes = 8
    public enum Field {
        public static let index = 0
        public static let num = 4
    }
    public let index: UInt32
    public let num: UInt32

    public init(index: UInt32, num: UInt32) {
        self.index = index
        self.num = num
    }

    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes, let index = payload.native(UInt32.self, at: Field.index),
            let num = payload.native(UInt32.self, at: Field.num)
        else { throw .wrongSize(.vringState, bytes: payload.count) }
        self.init(index: index, num: num)
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: index)
        bytes.append(native: num)
        return bytes
    }
}

/// Where a ring lies: SET_VRING_ADDR. The three addresses are the front-end's own ("user"), the log's is a guest's.
@frozen public struct VringAddress: WirePayload, BitwiseCopyable {
    public static let bytes = 40
    public enum Field {
        public static let index = 0
        public static let flags = 4
        public static let descriptors = 8
        public static let used = 16
        public static let avail = 24
        public static let log = 32
    }
    /// Writes to the used ring go to the dirty log.
    public static let logFlag: UInt32 = 1

    public let index: UInt32
    public let flags: UInt32
    /// Descriptor table (split) or ring (packed).
    public let descriptors: UInt64
    /// Used ring, or the device's event suppression.
    public let used: UInt64
    /// Available ring, or the driver's event suppression.
    public let avail: UInt64
    /// Guest address that a write to the used ring is logged under.
    public let log: UInt64

    public var isLogged: Bool { flags & Self.logFlag != 0 }

    public init(index: UInt32, flags: UInt32 = 0, descriptors: UInt64, used: UInt64, avail: UInt64, log: UInt64 = 0) {
        self.index = index
        self.flags = flags
        self.descriptors = descriptors
        self.used = used
        self.avail = avail
        self.log = log
    }

    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes, let index = payload.native(UInt32.self, at: Field.index),
            let flags = payload.native(UInt32.self, at: Field.flags),
            let descriptors = payload.native(UInt64.self, at: Field.descriptors),
            let used = payload.native(UInt64.self, at: Field.used),
            let avail = payload.native(UInt64.self, at: Field.avail),
            let log = payload.native(UInt64.self, at: Field.log)
        else { throw .wrongSize(.vringAddress, bytes: payload.count) }
        self.init(index: index, flags: flags, descriptors: descriptors, used: used, avail: avail, log: log)
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: index)
        bytes.append(native: flags)
        for address in [descriptors, used, avail, log] { bytes.append(native: address) }
        return bytes
    }
}

/// The number of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR: a ring, and whether a descriptor comes along.
@frozen public struct VringEvent: WirePayload, BitwiseCopyable {
    public static let indexMask: UInt64 = 0xff
    public static let noDescriptorFlag: UInt64 = 0x100

    public let index: UInt32
    /// False: no event descriptor, the ring is polled.
    public let hasDescriptor: Bool

    public init(index: UInt32, hasDescriptor: Bool = true) {
        self.index = index
        self.hasDescriptor = hasDescriptor
    }

    /// Bits that mean nothing are not looked at.
    public init(decoding payload: [UInt8]) throws(WireError) {
        let word = try WireNumber(decoding: payload).value
        self.init(
            index: UInt32(truncatingIfNeeded: word & Self.indexMask),
            hasDescriptor: word & Self.noDescriptorFlag == 0)
    }

    public var encoded: [UInt8] {
        WireNumber(UInt64(index) & Self.indexMask | (hasDescriptor ? 0 : Self.noDescriptorFlag)).encoded
    }
}
