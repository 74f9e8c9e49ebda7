// One thread that carries a FUSE file's requests: from /dev/fuse through the engine and back to /dev/fuse, all on one
// io_uring.
import BlockEngine
import CQblk
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Synchronization
import SystemPackage

/// The state of a worker. For the thread that makes it.
@safe final class FuseWorker {
    /// This worker's clone of the FUSE connection: replies must go where the request came from.
    let fuse: Int32
    let ring: Ring
    let engine: RequestEngine
    let replies: FuseReplies
    let diskSize: UInt64
    var pool: ReplyPool
    var requests: RequestBuffers
    /// For replies that are not READ's.
    let scratch: AlignedBuffer

    /// The kernel has closed the connection: it was unmounted or aborted.
    var ended = false
    /// The standing read of /dev/fuse is on the ring.
    var standing = false
    /// Replies that are on the ring.
    var repliesInFlight = 0
    /// The memory of each WRITE, and what is left of each request to make zeros; by request buffer.
    let lists: UnsafeMutablePointer<iovec>
    let rests: UnsafeMutablePointer<ZeroRest>
    let isReadOnly: Bool
    /// The image's name in the system's log.
    private let imageName: String
    /// Replies that found no room on the ring: a stack of slots.
    let unsent: UnsafeMutablePointer<UInt16>
    var unsentCount = 0

    /// For how long to poll for the end of a single image read; at most 80 us.
    var polling = AdaptivePolling(limit: 80_000)

    /// Request buffers of a worker. Reads leave them at once; changes stay in them, and the loop driver has at most 128
    /// in flight.
    static func requestCount(_ file: FuseFile, workers: Int) -> Int {
        file.readOnly ? 32 : max(32, 128 / max(workers, 1))
    }
    /// Bytes of all reply buffers of all workers of a server. Those of a disk that is written are held in memory from
    /// the beginning (`ServerProtection`).
    static func memoryBudget(_ file: FuseFile) -> Int { file.readOnly ? 32 << 20 : 16 << 20 }

    init(fuse: Int32, chain: ImageChain, file: FuseFile, workers: Int) throws(ImageError) {
        ring = try Ring.make(entries: 256)
        do throws(Errno) {
            pool = try ReplyPool(ReplyPool.plan(budget: Self.memoryBudget(file) / max(workers, 1)))
            requests = try RequestBuffers(
                count: Self.requestCount(file, workers: workers), size: FuseLimits.requestBytes(maxWrite: file.maxWrite)
            )
            scratch = try AlignedBuffer(count: FuseReplies.capacity)
        } catch {
            throw ImageError(.system, "cannot set up a worker: no memory for its buffers: \(errorText(error.rawValue))")
        }
        // A reply buffer's number is the slot of its read; those of request buffers follow.
        let slots = pool.count + requests.count
        engine = try RequestEngine(chain: chain, ring: ring, slots: slots)
        unsafe lists = .allocate(capacity: requests.count)
        unsafe rests = .allocate(capacity: requests.count)
        unsafe lists.initialize(repeating: iovec(), count: requests.count)
        unsafe rests.initialize(repeating: ZeroRest(), count: requests.count)
        isReadOnly = file.readOnly
        imageName = printable(chain.files.first?.path ?? "")
        self.fuse = fuse
        replies = FuseReplies(file: file)
        diskSize = file.size
        unsafe unsent = .allocate(capacity: slots)
        // A read that finds no request must fail at once, not hold up the ring.
        _ = fcntl(fuse, F_SETFL, fcntl(fuse, F_GETFL) | O_NONBLOCK)
    }

    deinit {
        unsafe unsent.deallocate()
        unsafe lists.deallocate()
        unsafe rests.deallocate()
    }

    /// Serves until the connection ends.
    func run() {
        while !ended { runOnce() }
        settle()
    }

    // MARK: serving one request

    /// Starts the requests of the queue, as long as reply buffers are free.
    @inline(__always) func serveLine() {
        while requests.waiting > 0 {
            let (buffer, length) = requests.first
            switch serve(buffer, length) {
            case .taken: requests.dequeue()
            case .keepsBuffer: requests.dequeueKeeping()
            case .waits: return
            }
        }
    }

    private enum Served { case taken, keepsBuffer, waits }

    /// Starts or answers the request in a request buffer. `waits`: no reply buffer is free.
    @inline(__always) private func serve(_ buffer: Int, _ count: Int) -> Served {
        guard let request = unsafe FuseRequest(requests.bytes(buffer), count: count) else { return .taken }
        if request.header.opcode == FuseOperation.read { return read(request) ? .taken : .waits }
        if !isReadOnly, let change = FuseChange(request, diskSize: diskSize) {
            return begin(change, request, in: buffer) ? .keepsBuffer : .taken
        }
        answer(request)
        return .taken
    }

    @inline(__always) private func read(_ request: FuseRequest) -> Bool {
        guard let wanted = request.arguments(fuse_read_in.self), Int(wanted.size) <= FuseLimits.maxRead else {
            refuse(request, EINVAL)
            return true
        }
        // Past the end there are no bytes: a short reply, never an error.
        let left = wanted.offset < diskSize ? diskSize &- wanted.offset : 0
        let length = Int(min(UInt64(wanted.size), left))
        let buffer = pool.take(length)
        guard buffer >= 0 else { return false }
        _ = unsafe FuseReplies.header(pool.start(buffer), unique: request.header.unique, payload: length)
        unsafe engine.submitRead(
            slot: buffer, guest: GuestOffset(length == 0 ? 0 : wanted.offset), buffer: pool.data(buffer), length: length
        )
        return true
    }

    /// Answers a request that is neither read nor write, at once; such requests are rare.
    @inline(never) private func answer(_ request: FuseRequest) {
        let length = unsafe replies.answer(request, into: scratch.pointer)
        if length > 0 { _ = unsafe Glibc.write(fuse, scratch.pointer, length) }
    }
    @inline(never) func refuse(_ request: FuseRequest, _ error: Int32) {
        let length = unsafe FuseReplies.header(scratch.pointer, unique: request.header.unique, error: error)
        _ = unsafe Glibc.write(fuse, scratch.pointer, length)
    }

    // MARK: replies

    /// Completes the header of a reply with how the request went; returns the reply's length.
    @inline(__always) func seal(_ done: RequestEngine.Finished) -> Int {
        let slot = Int(done.slot)
        let start = unsafe reply(slot)
        let header = unsafe start.load(as: fuse_out_header.self)
        if done.error == 0 { return Int(header.len) }
        sayFailure(done)
        let error = slot < pool.count ? done.error : FuseChange.error(done.error)
        return unsafe FuseReplies.header(start, unique: header.unique, error: error)
    }

    /// Logs the first request of this process that fails.
    @inline(never) private func sayFailure(_ done: RequestEngine.Finished) {
        guard !Self.hasSaidFailure.exchange(true, ordering: .relaxed) else { return }
        let why = done.damage.map { "\($0)" } ?? errorText(done.error)
        SystemLog.write(.error, "\(imageName): a request fails: \(why)")
    }
    private static let hasSaidFailure = Atomic<Bool>(false)

    /// The start of the reply of a slot's request.
    @inline(__always) func reply(_ slot: Int) -> UnsafeMutableRawPointer {
        unsafe slot < pool.count ? pool.start(slot) : requests.bytes(slot &- pool.count)
    }

    /// Frees the buffer of a slot's request.
    @inline(__always) func release(_ slot: Int) {
        if slot < pool.count { pool.give(slot) } else { requests.give(slot &- pool.count) }
    }
}
