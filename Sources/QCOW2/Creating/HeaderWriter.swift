// The first cluster of an image that is made: header, extensions, backing name, byte for byte as QEMU lays them out,
// so that the two can be compared.

import DiskTypes

/// Where the tables of a new image are.
struct TablePlaces: Sendable {
    var l1 = HostOffset(0)
    var refcountTable: HostOffset
    var refcountTableClusters: UInt64
}

enum HeaderWriter {
    private static let names: [(FeatureName.Kind, UInt8, String)] = [
        (.incompatible, 0, "dirty bit"), (.incompatible, 1, "corrupt bit"), (.incompatible, 2, "external data file"),
        (.incompatible, 3, "compression type"), (.incompatible, 4, "extended L2 entries"),
        (.compatible, 0, "lazy refcounts"), (.autoclear, 0, "bitmaps"), (.autoclear, 1, "raw external data"),
    ]

    /// The bytes the file starts with: as far as they go, at most one cluster.
    static func bytes(_ image: NewImage, _ places: TablePlaces) throws(ImageError) -> [UInt8] {
        var tail: [UInt8] = []
        if let format = image.options.backingFormat, image.options.backingName != nil {
            tail += try block(HeaderExtensions.Kind.backingFormat, Array(format.utf8))
        }
        if let name = image.options.dataFile {
            tail += try block(HeaderExtensions.Kind.externalDataFile, name.bytes)
        }
        let base = image.options.version == 2 ? 72 : Header.knownBytes
        // The end of the list is an extension of its own, without body.
        let rest = 8 + (image.options.backingName?.bytes.count ?? 0)
        if image.options.version == 3 {
            let table = try block(HeaderExtensions.Kind.featureNames, featureNames())
            // It only serves messages: where it does not fit it is left out, and of small clusters always, as by QEMU.
            let fits = UInt64(base + tail.count + table.count + rest) <= image.clusterSize
            if fits, image.clusterSize > 4096 { tail += table }
        }
        tail += [UInt8](repeating: 0, count: 8)
        let nameOffset = base + tail.count
        tail += image.options.backingName?.bytes ?? []
        guard UInt64(base + tail.count) <= image.clusterSize else {
            throw .unsupported(
                "the names of backing and data file do not fit into the first cluster",
                advice: "try a larger cluster size")
        }
        return fixed(image, places, nameOffset: nameOffset, count: base) + tail
    }

    private static func fixed(_ image: NewImage, _ places: TablePlaces, nameOffset: Int, count: Int) -> [UInt8] {
        let options = image.options
        var b = BigEndianTable(count: count)
        b.put(Header.magic, at: 0)
        b.put(options.version, at: 4)
        if let name = options.backingName, !name.isEmpty {
            b.put(UInt64(nameOffset), at: 8)
            b.put(UInt32(name.bytes.count), at: 16)
        }
        b.put(UInt32(image.clusterBits), at: 20)
        b.put(image.size, at: 24)
        b.put(UInt32(image.l1Entries), at: 36)
        b.put(places.l1.bytes, at: 40)
        b.put(places.refcountTable.bytes, at: 48)
        b.put(UInt32(places.refcountTableClusters), at: 56)
        guard options.version == 3 else { return b.bytes }
        var incompatible: IncompatibleFeatures = []
        if options.dataFile != nil { incompatible.insert(.externalDataFile) }
        if options.compression != .deflate { incompatible.insert(.compressionType) }
        if options.extendedL2 { incompatible.insert(.extendedL2) }
        b.put(incompatible.rawValue, at: 72)
        b.put(options.lazyRefcounts ? CompatibleFeatures.lazyRefcounts.rawValue : 0, at: 80)
        b.put(options.dataFileIsRaw ? AutoclearFeatures.rawExternalData.rawValue : 0, at: 88)
        b.put(UInt32(image.refcountOrder), at: 96)
        b.put(UInt32(Header.knownBytes), at: 100)
        b.put(options.compression.rawValue, at: 104)
        return b.bytes
    }

    private static func featureNames() -> [UInt8] {
        var table = BigEndianTable(count: names.count * 48)
        for (row, (kind, bit, name)) in names.enumerated() {
            table.put([kind.rawValue, bit], at: row * 48)
            table.put(name.utf8, at: row * 48 + 2)
        }
        return table.bytes
    }

    /// An extension: type, length, body, padding.
    private static func block(_ type: UInt32, _ body: [UInt8]) throws(ImageError) -> [UInt8] {
        guard body.count <= Int(UInt16.max), !body.contains(0) || type == HeaderExtensions.Kind.featureNames else {
            throw .unsupported("a file or format name is too long or has a NUL byte")
        }
        var table = BigEndianTable(count: 8 + (body.count + 7) & ~7)
        table.put(type, at: 0)
        table.put(UInt32(body.count), at: 4)
        table.put(body, at: 8)
        return table.bytes
    }
}
