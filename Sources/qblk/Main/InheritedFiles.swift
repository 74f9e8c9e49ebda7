// `attach` opens an image, and each server of it must have those very files: they come as descriptors, and what each must
// be as an argument.

import DiskTypes
import FoundationEssentials
import ImageChain

enum InheritedFiles {
    /// The number of the first file's descriptor: `HotPlug` says the same.
    private static let first: Int32 = 10

    /// Takes over the descriptors that `text`, an array of `KnownFile` in JSON, speaks of.
    static func decoded(_ text: String) throws(ImageError) -> HeldFiles {
        do {
            return HeldFiles(inherited: try JSONDecoder().decode([KnownFile].self, from: Data(text.utf8)), from: first)
        } catch { throw ImageError(.malformed, "--opened-files is not what attach says") }
    }
}
