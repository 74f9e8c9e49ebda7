// Millions of random requests, from one to four threads on one image, between which the file is closed
// and QEMU looks: it finds neither errors nor leaks, and reads what a flat array holds; and so do snapshots.
import BlockEngine
import DiskTypes
import Foundation
import Glibc
import ImageChain
import LinuxIO
import TestKit
import Testing

/// What the image is, and what is below it.
struct ConcurrentShape: CustomTestStringConvertible, Sendable {
    enum Below: Sendable { case nothing, raw, chain, compressed, full }
    let name: String
    var options = ""
    var cluster = 64 << 10
    var below = Below.nothing
    var snapshots = false
    var hasDataFile = false
    var testDescription: String { name }

    /// A few hundred clusters, and an end inside one.
    var size: Int { min(max(cluster * 40, 1 << 20), 24 << 20) + (cluster > 512 ? 3 * 512 : 0) }

    private static let clusterSizes: [ConcurrentShape] = (9...21).map { bits in
        ConcurrentShape(
            name: "\(1 << bits)", options: "cluster_size=\(1 << bits)", cluster: 1 << bits,
            below: [.nothing, .chain, .raw, .compressed][bits % 4])
    }
    /// 1 bit counts no snapshot, and 2 bits no snapshot of compressed clusters that share one.
    private static let widths: [ConcurrentShape] = (0...6).map { bits in
        ConcurrentShape(
            name: "\(1 << bits) bits", options: "cluster_size=4k,refcount_bits=\(1 << bits)", cluster: 4096,
            below: [.raw, .compressed, .full][bits % 3], snapshots: bits > 1)
    }
    private static let extended: [ConcurrentShape] = [14, 16, 21].map { bits in
        ConcurrentShape(
            name: "extended, \(1 << bits)", options: "extended_l2=on,cluster_size=\(1 << bits)", cluster: 1 << bits,
            below: bits == 14 ? .chain : .raw, snapshots: bits != 21)
    }
    private static let others: [ConcurrentShape] = [
        ConcurrentShape(name: "snapshots", snapshots: true),
        ConcurrentShape(name: "backing", below: .raw),
        ConcurrentShape(name: "lazy refcounts", options: "lazy_refcounts=on", below: .chain),
        ConcurrentShape(name: "zstd", options: "compression_type=zstd", below: .compressed, snapshots: true),
        ConcurrentShape(name: "extended, compressed", options: "extended_l2=on", below: .compressed),
        ConcurrentShape(name: "version 2", options: "compat=0.10,cluster_size=4k", cluster: 4096, snapshots: true),
        ConcurrentShape(
            name: "version 2, backing", options: "compat=0.10,cluster_size=8k", cluster: 8192, below: .chain),
        ConcurrentShape(name: "data file", hasDataFile: true),
        ConcurrentShape(name: "data file, extended", options: "extended_l2=on", below: .raw, hasDataFile: true),
    ]
    /// Only one when hunting: QBLK_SHAPE.
    static let all = (clusterSizes + widths + extended + others).filter {
        $0.name == ProcessInfo.processInfo.environment["QBLK_SHAPE"] ?? $0.name
    }
}

/// One image and the flat array that it must be.
private final class ConcurrentRun {
    let shape: ConcurrentShape
    let images: Images?
    var random: SeededRandom
    let seed: UInt64
    var model: SectorModel
    var snapshots: [(name: String, model: SectorModel)] = []

    init(_ shape: ConcurrentShape, seed: UInt64) throws {
        self.shape = shape
        self.seed = seed
        // In memory other ways are taken than on a disk; each shape has both, from seed to seed.
        let inMemory = (Int(seed & 1) + shape.name.utf8.reduce(0) { $0 + Int($1) }) & 1 == 0
        images = try Images(in: inMemory ? "/dev/shm" : "/tmp")
        random = SeededRandom(seed)
        model = try SectorModel([])
        try make()
        model = try SectorModel(folder().truth("a.img"))
    }

    private func folder() throws -> Images {
        guard let images else { throw TestFailure("there is no folder") }
        return images
    }

    // MARK: the image

    /// Sectors of a layer, in runs, with holes between.
    private func layer(_ number: Int, sectors: Int, density: Int = 3) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: sectors * 512)
        bytes.withUnsafeMutableBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            var at = 0
            while at < sectors {
                let run = min(1 + random.below(1 << random.below(9)), sectors - at)
                if random.below(density) != 0 {
                    for sector in at..<at + run {
                        SectorMark(sector: sector, owner: SectorMark.layer + number, burst: 0, count: 1)
                            .fill(base + sector * 512)
                    }
                }
                at += run
            }
        }
        return bytes
    }

    private func make() throws {
        let images = try folder()
        let sectors = shape.size / 512
        var options = shape.options
        if shape.hasDataFile { options += "\(options.isEmpty ? "" : ",")data_file=\(images.folder)/a.data" }
        if options.isEmpty { options = "compat=1.1" }
        let create = "qemu-img create -f qcow2 -o \(options)"
        switch shape.below {
        case .nothing: try images.run("\(create) a.img \(shape.size)")
        case .raw:
            // Shorter than the image.
            try images.write("base.raw", layer(0, sectors: sectors * 2 / 3 + 1))
            try images.run("\(create) -b base.raw -F raw a.img \(shape.size)")
        case .chain:
            try images.write("base.raw", layer(0, sectors: sectors / 2))
            try images.write("mid.raw", layer(1, sectors: sectors * 3 / 4, density: 2))
            try images.run(
                "qemu-img create -f qcow2 -b base.raw -F raw -o cluster_size=16k mid.img \(sectors * 3 / 4 * 512)")
            try images.run("qemu-img convert -n -f raw -O qcow2 mid.raw mid.img")
            try images.run("\(create) -b mid.img -F qcow2 a.img \(shape.size)")
        case .compressed, .full:
            try images.write("start.raw", layer(0, sectors: sectors, density: shape.below == .full ? 99 : 3))
            let flag = shape.below == .compressed ? "-c" : "-S 0"
            try images.run("qemu-img convert \(flag) -f raw -O qcow2 -o \(options) start.raw a.img")
        }
    }

    // MARK: bursts

    func run(operations: Int) throws {
        // An image is judged once a burst.
        let most = operations < 10_000 ? 250 : 2500
        let bursts = max(4, operations / most)
        for number in 1...bursts {
            try burst(number, threads: 1 + number % 4, operations: max(1, operations / bursts))
            try judge("burst \(number)")
            if number < bursts { try between(number) }
        }
    }

    private func burst(_ number: Int, threads: Int, operations: Int) throws {
        let owners = SectorOwners(sectors: model.marks.count, cluster: shape.cluster, threads: threads, &random)
        let burst = Burst(
            number: number, seed: random.next(), owners: owners, before: model, cluster: shape.cluster,
            operations: max(1, operations / threads))
        let chain = try folder().open(
            "a.img", direct: random.below(2) == 0, l2CacheLimit: random.below(2) == 0 ? 1 : 64 << 20, writable: true,
            format: .qcow2)
        chain.writer?.returnsSpace(random.below(2) == 0)
        let workers = try (0..<threads).map { try ConcurrentWorker(burst, chain, index: $0) }
        try join(workers)
        if let trouble = workers.compactMap(\.trouble).first { throw TestFailure("burst \(number): \(trouble)") }
        for sector in model.marks.indices {
            let owner = workers[Int(owners.owner[sector])].model
            model.marks[sector] = owner.marks[sector]
            model.mayBeZero[sector] = owner.mayBeZero[sector]
        }
        if number % 3 == 0 { try look(chain, "burst \(number), before the end") }
        try chain.closeAndUnlock()
    }

    private func join(_ workers: [ConcurrentWorker]) throws {
        guard let first = workers.first else { return }
        // The threads cannot be in an array; each starts and joins the next.
        let thread = try WorkerThread.start("model", ConcurrentLife(worker: first))
        let others = Result { try join(Array(workers.dropFirst())) }
        thread.join()
        try others.get()
    }

    /// What a thread of ours reads at the end.
    private func look(_ chain: ImageChain, _ place: String) throws {
        let read = try EngineHarness(chain).read(0, model.size)
        guard read.error == 0 else { throw TestFailure("\(place): the disk cannot be read: \(read.error)") }
        if let trouble = model.judge(read.bytes) { throw TestFailure("\(place): \(trouble)") }
    }

    /// What QEMU finds.
    private func judge(_ place: String) throws {
        let images = try folder()
        try images.run("qemu-img check -f qcow2 a.img")
        if let trouble = model.judge(try images.truth("a.img")) { throw TestFailure("\(place): QEMU: \(trouble)") }
        for i in snapshots.indices {
            try images.run("qemu-img convert -l snapshot.name=\(snapshots[i].name) -f qcow2 -O raw a.img truth.raw")
            if let trouble = snapshots[i].model.judge(try images.bytes("truth.raw")) {
                throw TestFailure("\(place): snapshot \(snapshots[i].name): \(trouble)")
            }
        }
    }

    // MARK: between two bursts

    private func between(_ number: Int) throws {
        if shape.below == .compressed, random.below(2) == 0 { try compress(number) }
        guard shape.snapshots, random.below(2) == 0 else { return }
        if snapshots.count == 3 || !snapshots.isEmpty && random.below(3) == 0 {
            let old = snapshots.remove(at: random.below(snapshots.count))
            try folder().run("qemu-img snapshot -d \(old.name) a.img")
        } else {
            snapshots.append(("s\(number)", model))
            try folder().run("qemu-img snapshot -c s\(number) a.img")
        }
    }

    /// QEMU compresses a few clusters: it does not where there is one already, so they are discarded first.
    private func compress(_ number: Int) throws {
        let images = try folder()
        var clusters: Set<Int> = []
        for _ in 0..<4 { clusters.insert(random.below(shape.size / shape.cluster)) }
        let sectors = shape.cluster / 512
        var line = clusters.map { "-c 'discard \($0 * shape.cluster) \(shape.cluster)'" }
        for cluster in clusters {
            var bytes = [UInt8](repeating: 0, count: shape.cluster)
            for i in 0..<sectors {
                let mark = SectorMark(
                    sector: cluster * sectors + i, owner: SectorMark.qemu, burst: number, count: 1)
                bytes.withUnsafeMutableBytes { $0.baseAddress.map { mark.fill($0 + i * 512) } }
                model.marks[cluster * sectors + i] = mark.word
            }
            try images.write("c\(cluster)", bytes)
            line.append("-c 'write -c -s c\(cluster) \(cluster * shape.cluster) \(shape.cluster)'")
        }
        try images.run(
            "qemu-io -f qcow2 -d unmap \(line.joined(separator: " ")) a.img >io 2>&1 && ! grep -iE 'fail|error' io")
    }
}

@Suite("An image that several threads change", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
struct ConcurrentModelTests {
    /// Of each shape. More when hunting: QBLK_MODEL_OPERATIONS=100000 and a release build. QBLK_SEED repeats the requests of
    /// each thread, but not which is faster.
    static let operations =
        ProcessInfo.processInfo.environment["QBLK_MODEL_OPERATIONS"].flatMap { Int($0) } ?? 1000

    @Test(arguments: ConcurrentShape.all) func isAFlatArray(shape: ConcurrentShape) throws {
        let seed = InteropTests.seed
        do { try ConcurrentRun(shape, seed: seed).run(operations: Self.operations) } catch {
            Issue.record("seed \(seed), \(shape.name): \(error)")
        }
    }
}
