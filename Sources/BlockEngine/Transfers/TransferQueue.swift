// Transfers between files and memory: which are free, how each is prepared on the ring, and those that the ring had no
// room for. Nothing here knows formats or extents.
import DiskTypes
import Glibc
import LinuxIO

/// The transfers of an engine, with the buffers and lists that they use.
@safe struct TransferQueue: ~Copyable {
    let records: RecordTable<Transfer>
    let files: RecordTable<DataFile>
    private var free: FreeList<TransferIndex>
    /// How many transfers are for writes that own host clusters: without them such writes could wait for each other.
    let reserved: Int
    var lists: IovecPool
    var bounces: BounceBuffers
    /// Entries that the ring had no room for, rarely and for a moment, by their user data.
    var backlog: TagQueue
    let ring: Ring
    /// What completions of this engine carry, besides kind and index.
    private let number: UInt64
    /// Zeros to write where the file system cannot make them, as much as `SharedZeros.count`.
    private let zeros: UnsafeMutableRawPointer
    /// Writes are on the medium before they are answered.
    var isDurable = false

    /// The kernel moves less than 2 GiB at a time; a round number below keeps the rest aligned.
    static var largestTransfer: Int { 1 << 30 }
    /// EAGAIN and short transfers without progress are tried this often before they count as errors.
    static var retryLimit: UInt32 { 65536 }

    /// - Parameters:
    ///   - count: how many transfers there are, with those that are `reserved`.
    ///   - files: how many files the chain has; the engine describes them.
    ///   - others: how many entries that are no transfers can be on the ring at once.
    init(
        count: Int, reserved: Int, others: Int, files: Int, maxIovecs: Int, bounces: Int,
        ring: Ring, number: UInt16, zeros: UnsafeMutableRawPointer
    ) {
        records = RecordTable(count: count, of: Transfer())
        free = FreeList(count: count)
        self.files = RecordTable(
            count: files, of: DataFile(buffered: -1, data: -1, memoryMask: 0, offsetMask: 0))
        self.reserved = reserved
        lists = IovecPool(count: 64, length: max(maxIovecs, RequestMerger.requestLimit))
        self.bounces = BounceBuffers(count: bounces)
        backlog = TagQueue(capacity: count + others)
        self.ring = ring
        self.number = UInt64(number) << CompletionTag.numberShift
        unsafe self.zeros = unsafe zeros
    }

    func deallocate() {
        for i in 0..<files.count { files[UInt16(i)].release(in: ring) }
        records.deallocate()
        files.deallocate()
        free.free()
        lists.free()
        bounces.free()
        backlog.free()
    }

    // MARK: free ones

    /// Whether a request that owns no clusters can have a transfer.
    @inline(__always) var canTake: Bool { free.available > reserved }

    /// Takes a transfer for the request; `none` when they are all in use but `kept`.
    @inline(__always) mutating func take(
        for request: RequestIndex, in requests: borrowing RecordTable<Request>, keeping kept: Int
    ) -> TransferIndex {
        guard free.available > kept else { return .none }
        let transfer = free.take()
        guard transfer.exists else { return .none }
        records[transfer].request = request
        records[transfer].retries = 0
        records[transfer].list = .none
        records[transfer].allocation = .none
        requests[request].transfers &+= 1
        return transfer
    }

    @inline(__always) mutating func take(
        for request: RequestIndex, in requests: borrowing RecordTable<Request>
    ) -> TransferIndex {
        take(for: request, in: requests, keeping: reserved)
    }

    /// The transfer is free again, and its list.
    @inline(__always) mutating func give(_ transfer: TransferIndex) {
        if records[transfer].list.exists { lists.give(records[transfer].list) }
        free.give(transfer)
    }

    /// What is moved: `length` bytes at byte `at` of the request, at `host` of the file.
    @inline(__always) func fill(
        _ transfer: TransferIndex, _ kind: Transfer.Kind, _ file: UInt16, at: Int, length: Int, host: UInt64
    ) {
        records[transfer].kind = kind
        records[transfer].file = file
        records[transfer].at = at
        records[transfer].left = length
        records[transfer].host = host
    }

    /// Gives a transfer its bounce buffer; a write's bytes go in at once.
    mutating func fillBounce(_ transfer: TransferIndex, _ memory: RequestMemory, isWrite: Bool) {
        records[transfer].bounce = bounces.take()
        records[transfer].got = 0
        guard isWrite else { return }
        unsafe memory.copyOut(
            bounces.buffer(records[transfer].bounce), at: records[transfer].at, length: records[transfer].left)
    }

    mutating func giveBounce(_ transfer: TransferIndex) {
        bounces.give(records[transfer].bounce)
        records[transfer].bounce = .none
    }

    /// Whether a transfer can go straight between the file and memory at `base`.
    @inline(__always) func isStraight(
        _ file: UInt16, _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int
    ) -> Bool {
        Int(file) < files.count && length <= TransferQueue.largestTransfer
            && UInt(bitPattern: base) & files[file].memoryMask == 0
            && (host | UInt64(truncatingIfNeeded: length)) & files[file].offsetMask == 0
    }

    // MARK: sending

    @inline(__always) func tag(_ kind: UInt64) -> UInt64 { kind | number }
    @inline(__always) func tag(_ kind: UInt64, _ index: some LinkIndex) -> UInt64 {
        kind | number | UInt64(UInt32(bitPattern: index.raw))
    }

    /// Prepares a transfer, or queues it until the ring has room.
    mutating func send(_ transfer: TransferIndex, of requests: borrowing RecordTable<Request>) {
        if !prepare(transfer, of: requests) { backlog.push(tag(CompletionTag.transfer, transfer)) }
    }

    /// Prepares a transfer of one range. False: the ring has no room.
    @inline(__always) func prepareRange(
        _ file: UInt16, _ memory: UnsafeMutableRawPointer, _ length: Int, _ host: UInt64, isRead: Bool, _ mark: UInt64
    ) -> Bool {
        let count = UInt32(truncatingIfNeeded: length)
        let (fd, flags) = (files[file].ringData, files[file].flags)
        guard !isRead else {
            return unsafe ring.prepareRead(
                fd: fd, buffer: memory, count: count, offset: host, userData: mark, flags: flags)
        }
        return unsafe ring.prepareWrite(
            fd: fd, buffer: memory, count: count, offset: host, userData: mark, flags: flags, durable: isDurable)
    }

    /// Prepares a transfer. False: the ring has no room.
    func prepare(_ transfer: TransferIndex, of requests: borrowing RecordTable<Request>) -> Bool {
        let it = records[transfer]
        let mark = tag(CompletionTag.transfer, transfer)
        let isRead = requests[it.request].operation == .read
        switch it.kind {
        case .bounce:
            // Whole blocks around the range; what is in the buffer already is whole blocks too.
            let mask = files[it.file].offsetMask
            let first = it.host & ~mask
            let end = (it.host &+ UInt64(it.left) &+ mask) & ~mask
            return unsafe prepareRange(
                it.file, bounces.buffer(it.bounce) + it.got, Int(truncatingIfNeeded: end &- first) &- it.got,
                first &+ UInt64(it.got), isRead: isRead, mark)
        case .allocation:
            return ring.prepareFallocate(
                fd: files[it.file].buffered, mode: it.mode, offset: it.host, length: UInt64(it.left), userData: mark)
        case .zeros:
            return unsafe prepareRange(it.file, zeros, min(it.left, SharedZeros.count), it.host, isRead: false, mark)
        case .merged:
            return unsafe prepareList(it.file, lists[it.list], it.at, it.host, isRead: isRead, mark)
        case .buffered:
            return unsafe prepareRange(
                it.file, it.buffer.unsafelyUnwrapped + it.at, it.left, it.host, isRead: isRead, mark)
        case .plain, .vector, .cluster:
            return prepareOwn(it, requests[it.request].memory, isRead: isRead, mark)
        }
    }

    /// Between the file and the request's own memory.
    private func prepareOwn(_ it: Transfer, _ memory: RequestMemory, isRead: Bool, _ mark: UInt64) -> Bool {
        if let base = unsafe memory.base {
            return unsafe prepareRange(it.file, base + it.at, it.left, it.host, isRead: isRead, mark)
        }
        if !it.list.exists, let list = unsafe memory.iovecs {
            return unsafe prepareList(it.file, list, memory.count, it.host, isRead: isRead, mark)
        }
        let list = unsafe lists[it.list]
        let count = unsafe memory.slice(at: it.at, length: it.left, into: list)
        return unsafe prepareList(it.file, list, count, it.host, isRead: isRead, mark)
    }

    private func prepareList(
        _ file: UInt16, _ list: UnsafeMutablePointer<iovec>, _ count: Int, _ host: UInt64, isRead: Bool, _ mark: UInt64
    ) -> Bool {
        let number = UInt32(truncatingIfNeeded: count)
        let (fd, flags) = (files[file].ringData, files[file].flags)
        guard !isRead else {
            return unsafe ring.prepareReadv(
                fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags)
        }
        return unsafe ring.prepareWritev(
            fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags, durable: isDurable)
    }
}
