"""Disparity of videos with a trained model, and trained models as files for others.

predictor      the model, and predictions of arrays, videos and files
long_video     windows of a long video, aligned and blended
video_reader   frames of video files, folders of images and shards
video_writer   disparity as a video, images or an array
export         weights under the published names, ONNX
"""
