// One disk of the process, as sessions see it: what it is, how many queues it has, and which worker has each. It
// outlives connections: a front-end that connects again finds the cache mode that its guest chose.
import BlockEngine
import DiskTypes
public import ImageChain
import LinuxIO
import Logging
import Synchronization
import SystemPackage
import Virtqueue

/// What `--cache` means, in QEMU's terms. Whether data bypasses the page cache is decided when the chain is opened.
public struct CachePolicy: Sendable, Equatable {
    /// Writes are answered before they are durable, and the guest flushes; false: each write is durable before its
    /// answer.
    public var isWriteback: Bool
    /// Flushes are answered without a sync.
    public var ignoresFlushes: Bool
    /// Write-back with flushes, if nothing else is said.
    public init(isWriteback: Bool = true, ignoresFlushes: Bool = false) {
        self.isWriteback = isWriteback
        self.ignoresFlushes = ignoresFlushes
    }
}

/// A disk to be served, and how.
public struct ExportOptions: Sendable {
    /// The opened image with its backing chain; its locks are taken already, unless `isIncoming`.
    public var chain: ImageChain
    /// The disk's name in log messages.
    public var name: String
    /// Virtqueues that the disk offers, 1 to `VhostUserServer.queueLimit`.
    public var queueCount: Int = 1
    /// The serial number that the guest sees (GET_ID), of which the first 20 bytes count.
    public var serial: String = "qblk"
    /// Bytes of a logical block: a power of two, 512 to 1 MiB.
    public var blockSize: Int = 512
    /// When writes are durable.
    public var cache = CachePolicy()
    /// DISCARD, and WRITE_ZEROES with UNMAP, give storage back to the host.
    public var discards = true
    /// Opens the image again in a migration: the image is released when the last ring stops, and opened with this when
    /// rings start again. Nil: it stays open as long as it is served.
    public var reopen: ImageOpener?
    /// `chain` was opened to be read, without locks: the guest, and the server that has its image, are still on another
    /// host. Needs `reopen`, which opens the image for writing.
    public var isIncoming = false

    /// One queue, blocks of 512 bytes, write-back, with discards.
    public init(chain: ImageChain, name: String) {
        self.chain = chain
        self.name = name
    }
}

/// A disk that is being served.
final class Export: Sendable {
    let number: Int
    let name: String
    let queueCount: Int
    let image: MigratableImage
    /// The mapping changes while rings run, so a record of requests in flight has a mapping journal.
    let hasJournal: Bool
    let workers: [Mailbox<WorkerCommand>]
    let log: Logger
    /// Signalled when the disk's size changed.
    let resized: EventFD
    /// The cache mode before a guest chooses one.
    let startsWriteback: Bool
    private let firstQueue: Int
    private let ignoresFlushes: Bool
    private let discards: Bool
    private let over = Atomic<Bool>(false)
    private let current: Mutex<VirtioBlkDisk>
    private let lastTrouble = Mutex<String?>(nil)

    /// The disk as it is now: its size, and the cache mode that the guest chose.
    var disk: VirtioBlkDisk { current.withLock { $0 } }
    func change(_ body: (inout VirtioBlkDisk) -> Void) { current.withLock { body(&$0) } }

    /// Logs why a connection was closed. A front-end may connect ten times a second to get the same answer: that is
    /// logged once.
    func sayBroken(_ why: String) {
        let isNews = lastTrouble.withLock { last in
            defer { last = why }
            return last != why
        }
        log.log(level: isNews ? .error : .debug, "\(name): connection closed: \(why)")
    }

    /// A front-end is served: when the last error happens again, it is logged again.
    func forgetTrouble() { lastTrouble.withLock { $0 = nil } }

    /// No front-end will connect any more.
    var isOver: Bool { over.load(ordering: .relaxed) }
    func end() { over.store(true, ordering: .relaxed) }

    /// `firstQueue`: queues of the exports before this one, so that the queues of all exports are spread over all
    /// workers.
    init(
        _ options: ExportOptions, number: Int, firstQueue: Int, workers: [Mailbox<WorkerCommand>], log: Logger
    ) throws(Errno) {
        let resized = try EventFD()
        let isWritable = options.isIncoming || options.chain.isWritable
        guard
            var disk = VirtioBlkDisk(
                capacityBytes: options.chain.size, blockSize: UInt32(options.blockSize),
                isReadOnly: !isWritable, queueCount: UInt16(options.queueCount), serial: options.serial)
        else { throw .invalidArgument }
        self.resized = resized
        disk.isWriteback = options.cache.isWriteback
        startsWriteback = options.cache.isWriteback
        hasJournal = isWritable && !options.chain.isRaw
        image = MigratableImage(options.isIncoming ? nil : options.chain, open: options.reopen)
        options.chain.writer?.returnsSpace(options.discards)
        current = Mutex(disk)
        self.number = number
        name = options.name
        queueCount = options.queueCount
        ignoresFlushes = options.cache.ignoresFlushes
        discards = options.discards
        self.workers = workers
        self.log = log
        self.firstQueue = firstQueue
    }

    /// What workers need to know of the export, with the image as it is now.
    func settings(_ chain: ImageChain) -> ExportSettings {
        ExportSettings(name: name, chain: chain, ignoresFlushes: ignoresFlushes, discards: discards)
    }

    /// The image, which is opened first if it was released.
    func takeImage() throws(ImageError) -> (chain: ImageChain, isNew: Bool) {
        let taken = try image.acquire()
        guard taken.isNew else { return taken }
        taken.chain.writer?.returnsSpace(discards)
        change { $0.capacity = taken.chain.size >> VirtioBlk.sectorBits }
        return taken
    }

    func worker(of index: Int) -> Mailbox<WorkerCommand> { workers[(firstQueue + index) % workers.count] }
}
