// The last step of opening a chain: the maps. They come when all layers are known, because they share the memory for L2
// tables.

import DiskTypes
import LinuxIO
import QCOW2

extension ChainOpener {
    /// Shares the memory for L2 tables among the layers by what each could use.
    func buildMaps() throws(ImageError) -> [ImageLayer] {
        try checkMemory()
        let needs = layers.map { $0.image.map { QCOW2Map.cacheNeed($0.header) } ?? 0 }
        let total = needs.reduce(UInt64(0)) { $0.addingReportingOverflow($1).partialValue }
        var built: [ImageLayer] = []
        for (layer, need) in zip(layers, needs) {
            let share = total <= options.l2CacheLimit ? need : Self.share(of: need, total, options.l2CacheLimit)
            do throws(ImageError) { built.append(try build(layer, after: built.count, cacheLimit: share)) } catch {
                throw error.named(layer.path)
            }
        }
        return built
    }

    /// L1 tables stay in memory whole. One image's is bounded by its format, but a chain could add up hundreds.
    private func checkMemory() throws(ImageError) {
        let bytes = layers.reduce(UInt64(0)) { sum, layer in
            sum + (layer.image.map { $0.header.l1EntriesNeeded(for: $0.header.size) * 8 } ?? 0)
        }
        guard bytes <= Self.l1Limit else {
            throw ImageError(
                .unsupported, "the chain's L1 tables take \(bytes >> 20) MiB, more than \(Self.l1Limit >> 20)",
                advice: "flatten it with qemu-img convert", path: path)
        }
    }
    private static let l1Limit: UInt64 = 128 << 20

    private static func share(of need: UInt64, _ total: UInt64, _ limit: UInt64) -> UInt64 {
        UInt64(Double(limit) * (Double(need) / Double(total)))
    }

    private func build(_ layer: OpenedLayer, after built: Int, cacheLimit: UInt64) throws(ImageError) -> ImageLayer {
        let map: LayerMap
        let size: UInt64
        if let image = layer.image {
            let external = layer.dataFile == layer.metadataFile ? nil : files[layer.dataFile].length
            let qcow2 = try QCOW2Map(
                image, snapshot: layer.snapshot, source: files[layer.metadataFile], dataLength: external,
                cacheLimit: cacheLimit, forWriting: options.writable && built == 0)
            (map, size) = (.qcow2(qcow2), qcow2.size)
        } else {
            let raw = RawMap(
                fileLength: options.files?[layer.metadataFile].known.length ?? files[layer.metadataFile].length)
            (map, size) = (.raw(raw), raw.size)
        }
        return ImageLayer(
            path: layer.path, format: layer.format, image: layer.image, size: size,
            metadataFile: UInt16(layer.metadataFile), dataFile: UInt16(layer.dataFile), map: map)
    }
}
