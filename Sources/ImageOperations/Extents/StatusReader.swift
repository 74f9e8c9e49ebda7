// The answer of qemu-img map for one place of a chain, layer by layer, with the tables that are missing read on the
// spot.

public import DiskTypes
public import ImageChain
import LinuxIO

/// Says what ranges of a chain are made of. Confined to one thread; any number of readers may share a chain.
public struct StatusReader: Sendable {
    private enum Guess { case unknown, no, yes }
    /// What there is at a place: both cover at least one byte.
    enum Look {
        case status(BlockStatus)
        case damaged(MapDamage)
    }

    /// The chain that is asked.
    public let chain: ImageChain
    private var preallocated: [Guess]

    /// A reader of this chain. Nothing is read yet.
    public init(_ chain: ImageChain) {
        self.chain = chain
        preallocated = Array(repeating: .unknown, count: chain.layers.count)
    }

    /// What the range from `start` on is made of: at least one byte, at most `length` (> 0) of them. The range must
    /// lie inside the disk. Damage is an error that names the place.
    public mutating func status(at start: UInt64, length: UInt64) throws(ImageError) -> BlockStatus {
        switch try look(at: start, length: length) {
        case .status(let status): return status
        case .damaged(let damage): throw chain.error(damage)
        }
    }

    /// As `status`, with damage as an answer: who salvages goes on behind it.
    mutating func look(at start: UInt64, length: UInt64) throws(ImageError) -> Look {
        var length = length
        var depth = 0
        while true {
            let look = try look(at: start, length: length, inLayer: depth)
            guard case .status(var status) = look else { return look }
            if status.isData || status.isZero {
                status.isPresent = true
                return .status(status)
            }
            // Nothing below, or only something shorter: zeros that no layer has.
            let isLast = depth + 1 == chain.layers.count
            if isLast || start >= chain.layers[depth + 1].size {
                status.isZero = true
                status.isPastBacking = !isLast
                return .status(status)
            }
            length = status.length
            depth += 1
        }
    }

    private mutating func look(at start: UInt64, length: UInt64, inLayer depth: Int) throws(ImageError) -> Look {
        let layer = chain.layers[depth]
        let length = min(length, layer.size - start)
        guard layer.image != nil else {
            return .status(try rawStatus(at: start, length: length, layer, depth))
        }
        // More tries than one lookup can need tables: others may push them out of the cache in between.
        for _ in 0..<4096 {
            switch chain.lookup(GuestOffset(start), length: length, inLayer: depth) {
            case .extent(let extent): return .status(try tableStatus(extent, depth))
            case .damaged(let damage): return .damaged(damage)
            case .needs(let table): try fetch(table)
            }
        }
        throw ImageError(.system, "the L2 cache is too small", advice: "give it more with --l2-cache")
    }

    private func fetch(_ table: TableRead) throws(ImageError) {
        let bytes = try chain.files[Int(table.file)].read(at: table.host, count: Int(table.length))
        unsafe bytes.withUnsafeBytes { unsafe chain.supply(table, $0) }
    }

    private mutating func tableStatus(_ extent: Extent, _ depth: Int) throws(ImageError) -> BlockStatus {
        var status = BlockStatus(start: extent.guest.bytes, length: extent.length)
        status.depth = depth
        status.isZero = extent.kind.isZero
        status.isData = extent.kind == .data || extent.kind == .compressed
        status.isCompressed = extent.kind == .compressed
        if extent.hasHostBytes {
            status.offset = extent.host.bytes
            status.file = extent.file
        }
        if extent.kind == .data, hasPreallocation(depth) { try askFile(&status) }
        return status
    }

    private func rawStatus(
        at start: UInt64, length: UInt64, _ layer: ImageLayer, _ depth: Int
    ) throws(ImageError) -> BlockStatus {
        let hole = try chain.files[Int(layer.dataFile)].holeStatus(at: start, length: length)
        var status = BlockStatus(start: start, length: hole.length)
        status.depth = depth
        status.isZero = hole.isHole
        status.isData = !hole.isHole
        status.offset = start
        status.file = layer.dataFile
        return status
    }

    /// Lets the file system say whether mapped bytes were ever written.
    private func askFile(_ status: inout BlockStatus) throws(ImageError) {
        guard let offset = status.offset, let index = status.file else { return }
        let file = chain.files[Int(index)]
        status.asksFile = true
        guard offset < file.length else {
            status.isZero = true
            return
        }
        let room = ((file.length + 511) & ~511) - offset
        let hole = try file.holeStatus(at: offset, length: min(status.length, room))
        status.isZero = hole.isHole
        // A hole that reaches the file's end goes on past it.
        if !(hole.isHole && hole.length == room) { status.length = hole.length }
    }

    private mutating func hasPreallocation(_ depth: Int) -> Bool {
        if preallocated[depth] == .unknown, let image = chain.layers[depth].image {
            let file = chain.files[Int(chain.layers[depth].metadataFile)]
            preallocated[depth] = Preallocation.isLikely(image.header, file) ? .yes : .no
        }
        return preallocated[depth] == .yes
    }
}

extension ImageChain {
    /// A broken mapping in words, with the file it is in.
    func error(_ damage: MapDamage) -> ImageError {
        .malformed(damage.description, advice: "the image is damaged").named(layers[Int(damage.layer)].path)
    }

    /// A read that failed, in words, with the file it is in.
    func error(reading guest: GuestOffset, errno: Int32, damage: MapDamage?) -> ImageError {
        if let damage { return error(damage) }
        return ImageError(.system, "cannot be read (\(guest)): \(errorText(errno))", path: layers[0].path)
    }
}
