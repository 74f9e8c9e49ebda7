// The payloads for two areas of shared files that are not guest memory: the record of requests in flight, and the log
// of dirty pages. Each says where an area is, and its end is checked to be a 64-bit number.

/// GET_INFLIGHT_FD and SET_INFLIGHT_FD (specification: "Inflight description"). GET asks with the two counts; its
/// answer has all fields and a descriptor.
@frozen public struct InflightDescription: WirePayload, BitwiseCopyable {
    /// The structure and the padding behind it that C compilers add: QEMU sends and expects 24 bytes.
    public static let bytes = 24
    /// The structure as the specification lists it.
    public static let packedBytes = 20
    /// Offsets in the payload, in bytes.
    public enum Field {
        /// Bytes of the area, a u64.
        public static let mmapSize = 0
        /// Where the area begins in the file, a u64.
        public static let mmapOffset = 8
        /// Number of queues, a u16.
        public static let queueCount = 16
        /// Entries of a queue, a u16.
        public static let queueSize = 18
    }
    /// Bytes of the area; 0 in GET_INFLIGHT_FD.
    public let mmapSize: UInt64
    /// Where the area begins in the file, in bytes.
    public let mmapOffset: UInt64
    /// Queues that the area has room for.
    public let queueCount: UInt16
    /// Entries of each queue.
    public let queueSize: UInt16

    /// A payload that is to be sent. Nothing is checked.
    public init(mmapSize: UInt64, mmapOffset: UInt64, queueCount: UInt16, queueSize: UInt16) {
        self.mmapSize = mmapSize
        self.mmapOffset = mmapOffset
        self.queueCount = queueCount
        self.queueSize = queueSize
    }

    /// Throws `.wrongSize` unless the payload has 24 or 20 bytes, and `.areaOverflows` when the area's end is no 64-bit
    /// number.
    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes || payload.count == Self.packedBytes,
            let size = payload.native(UInt64.self, at: Field.mmapSize),
            let offset = payload.native(UInt64.self, at: Field.mmapOffset),
            let queues = payload.native(UInt16.self, at: Field.queueCount),
            let length = payload.native(UInt16.self, at: Field.queueSize)
        else { throw .wrongSize(.inflight, bytes: payload.count) }
        guard !offset.addingReportingOverflow(size).overflow else { throw .areaOverflows(.inflight) }
        self.init(mmapSize: size, mmapOffset: offset, queueCount: queues, queueSize: length)
    }

    /// 24 bytes, of which the last 4 are 0.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: mmapSize)
        bytes.append(native: mmapOffset)
        bytes.append(native: queueCount)
        bytes.append(native: queueSize)
        bytes.append(native: UInt32(0))
        return bytes
    }
}

/// SET_LOG_BASE with LOG_SHMFD: where the dirty log is in the file that comes with the message (specification: "Log
/// description").
@frozen public struct LogDescription: WirePayload, BitwiseCopyable {
    /// Bytes of the payload.
    public static let bytes = 16
    /// Offsets in the payload, in bytes; each field is a u64.
    public enum Field {
        /// Bytes of the log.
        public static let mmapSize = 0
        /// Where the log begins in the file.
        public static let mmapOffset = 8
    }
    /// Bytes of the log; each has 8 bits, and each bit stands for 4096 bytes of guest memory.
    public let mmapSize: UInt64
    /// Where the log begins in the file, in bytes.
    public let mmapOffset: UInt64

    /// A payload that is to be sent. Nothing is checked.
    public init(mmapSize: UInt64, mmapOffset: UInt64) {
        self.mmapSize = mmapSize
        self.mmapOffset = mmapOffset
    }

    /// Throws `.wrongSize` unless the payload has exactly 16 bytes, and `.areaOverflows` when the log's end is no
    /// 64-bit number.
    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes, let size = payload.native(UInt64.self, at: Field.mmapSize),
            let offset = payload.native(UInt64.self, at: Field.mmapOffset)
        else { throw .wrongSize(.log, bytes: payload.count) }
        guard !offset.addingReportingOverflow(size).overflow else { throw .areaOverflows(.log) }
        self.init(mmapSize: size, mmapOffset: offset)
    }

    /// The 16 bytes of the payload.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: mmapSize)
        bytes.append(native: mmapOffset)
        return bytes
    }
}
