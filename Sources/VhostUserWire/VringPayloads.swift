// The payloads that describe one ring: a number, its addresses, its event descriptors. A front-end sends them for each
// queue before the first request, and GET_VRING_BASE when the queue stops.

/// A ring and a number: SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE (specification: "A vring state
/// description").
@frozen public struct VringState: WirePayload, BitwiseCopyable {
    /// Bytes of the payload.
    public static let bytes = 8
    /// Offsets in the payload, in bytes; each field is a u32.
    public enum Field {
        /// The ring.
        public static let index = 0
        /// The number.
        public static let num = 4
    }
    /// The ring, counted from 0. The wire has 32 bits for it; whether there is such a ring is for the caller to check.
    public let index: UInt32
    /// SET_VRING_NUM: entries of the ring. SET_VRING_BASE and the answer of GET_VRING_BASE: where the ring goes on,
    /// which is the next available index (split), or both positions and wrap counters (packed;
    /// formats/vhost-user/README.md). SET_VRING_ENABLE: 1 or 0.
    public let num: UInt32

    /// A payload that is to be sent.
    public init(index: UInt32, num: UInt32) {
        self.index = index
        self.num = num
    }

    /// Throws `.wrongSize` unless the payload has exactly 8 bytes.
    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes, let index = payload.native(UInt32.self, at: Field.index),
            let num = payload.native(UInt32.self, at: Field.num)
        else { throw .wrongSize(.vringState, bytes: payload.count) }
        self.init(index: index, num: num)
    }

    /// The 8 bytes of the payload.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: index)
        bytes.append(native: num)
        return bytes
    }
}

/// Where a ring is: SET_VRING_ADDR (specification: "A vring address description"). Three addresses are the front-end's
/// own ("user addresses"), the log's is a guest address.
@frozen public struct VringAddress: WirePayload, BitwiseCopyable {
    /// Bytes of the payload.
    public static let bytes = 40
    /// Offsets in the payload, in bytes; index and flags are u32, the addresses u64.
    public enum Field {
        /// The ring.
        public static let index = 0
        /// Bit 0: log writes to the used ring.
        public static let flags = 4
        /// Descriptor table, or the packed ring.
        public static let descriptors = 8
        /// Used ring, or the device's event suppression area.
        public static let used = 16
        /// Available ring, or the driver's event suppression area.
        public static let avail = 24
        /// Guest address of the used ring, for the log.
        public static let log = 32
    }
    /// In `flags`: writes to the used ring are recorded in the dirty log.
    public static let logFlag: UInt32 = 1

    /// The ring, counted from 0.
    public let index: UInt32
    /// Flags as they came; unknown bits are ignored.
    public let flags: UInt32
    /// User address of the descriptor table (split) or of the ring itself (packed).
    public let descriptors: UInt64
    /// User address of the used ring (split) or of the device's event suppression area (packed).
    public let used: UInt64
    /// User address of the available ring (split) or of the driver's event suppression area (packed).
    public let avail: UInt64
    /// Guest address that a write to the used ring is logged under.
    public let log: UInt64

    /// Writes to the used ring are recorded in the dirty log.
    public var isLogged: Bool { flags & Self.logFlag != 0 }

    /// A payload that is to be sent. Nothing is checked.
    public init(index: UInt32, flags: UInt32 = 0, descriptors: UInt64, used: UInt64, avail: UInt64, log: UInt64 = 0) {
        self.index = index
        self.flags = flags
        self.descriptors = descriptors
        self.used = used
        self.avail = avail
        self.log = log
    }

    /// Throws `.wrongSize` unless the payload has exactly 40 bytes. Alignment and memory behind the addresses are for
    /// the caller to check.
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

    /// The 40 bytes of the payload.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: index)
        bytes.append(native: flags)
        for address in [descriptors, used, avail, log] { bytes.append(native: address) }
        return bytes
    }
}

/// The number of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR (specification: "Front-end message types"): a ring,
/// and whether a descriptor comes with the message.
@frozen public struct VringEvent: WirePayload, BitwiseCopyable {
    /// Bits 0 to 7: the ring.
    public static let indexMask: UInt64 = 0xff
    /// Bit 8: no descriptor comes with the message.
    public static let noDescriptorFlag: UInt64 = 0x100

    /// The ring, 0 to 255.
    public let index: UInt32
    /// False: no event descriptor, the ring is polled.
    public let hasDescriptor: Bool

    /// A payload that is to be sent; of `index`, only the low 8 bits are.
    public init(index: UInt32, hasDescriptor: Bool = true) {
        self.index = index
        self.hasDescriptor = hasDescriptor
    }

    /// Bits 9 to 63 are ignored. Throws `.wrongSize` unless the payload has exactly 8 bytes.
    public init(decoding payload: [UInt8]) throws(WireError) {
        let word = try WireNumber(decoding: payload).value
        self.init(
            index: UInt32(truncatingIfNeeded: word & Self.indexMask),
            hasDescriptor: word & Self.noDescriptorFlag == 0)
    }

    /// The 8 bytes of the number.
    public var encoded: [UInt8] {
        WireNumber(UInt64(index) & Self.indexMask | (hasDescriptor ? 0 : Self.noDescriptorFlag)).encoded
    }
}
